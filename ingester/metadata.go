package ingester

import (
	"bytes"
	"unsafe"

	"github.com/prometheus/prometheus/model/labels"
)

// metadataDecoder turns encoded metadata into labels for the segment writer, without an
// allocation for each row: sets that repeat (a level alone) are remembered, others are
// built in one buffer over and over.
type metadataDecoder struct {
	names   []string
	builder labels.ScratchBuilder
	current labels.Labels
	known   map[string]labels.Labels
	// recent has some of the sets known, by their last byte and length, which tell levels apart.
	recent [16]knownSet
}

// knownSet is a set with its encoding.
type knownSet struct {
	encoded []byte
	set     labels.Labels
}

const (
	rememberedSets = 1 << 10
	rememberedSize = 64 // encoded bytes; longer sets hold ids and do not come again
)

func newMetadataDecoder(names []string) *metadataDecoder {
	return &metadataDecoder{names: names, builder: labels.NewScratchBuilder(16), known: make(map[string]labels.Labels)}
}

// labels returns the set, valid until the next call.
func (d *metadataDecoder) labels(encoded []byte) labels.Labels {
	if len(encoded) == 0 {
		return labels.EmptyLabels()
	}
	recent := &d.recent[(len(encoded)+int(encoded[len(encoded)-1]))%len(d.recent)]
	if bytes.Equal(encoded, recent.encoded) {
		return recent.set
	}
	if ls, ok := d.known[string(encoded)]; ok {
		*recent = knownSet{encoded, ls}
		return ls
	}
	d.builder.Reset()
	eachMetadata(encoded, func(name uint32, value []byte) {
		// Slabs never change, and the builder copies: no string outlives its bytes.
		d.builder.Add(d.names[name], unsafe.String(unsafe.SliceData(value), len(value)))
	})
	if len(encoded) <= rememberedSize && len(d.known) < rememberedSets {
		ls := d.builder.Labels()
		d.known[string(encoded)] = ls
		return ls
	}
	d.builder.Overwrite(&d.current)
	return d.current
}
