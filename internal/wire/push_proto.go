package wire

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/skaldlog/skald/internal/fault"
)

// The messages of a push, in package logproto:
//
//	PushRequest   1 streams            repeated StreamAdapter
//	StreamAdapter 1 labels             string
//	              2 entries            repeated EntryAdapter
//	EntryAdapter  1 timestamp          google.protobuf.Timestamp {1 seconds, 2 nanos}
//	              2 line               string
//	              3 structuredMetadata repeated LabelPairAdapter
//	LabelPair     1 name               string
//	              2 value              string
//
// Other fields are ignored.

func (d *Decoder) pushProto(b *Batch) error {
	f := fields{buf: b.body}
	for f.next() {
		if f.is(1, protowire.BytesType) {
			if err := b.streamProto(f.value); err != nil {
				return err
			}
		}
	}
	if f.err != nil {
		return badProto(f.err)
	}
	return d.labelsProto(b)
}

func badProto(err error) error { return fault.Wrap(fault.Invalid, err) }

// streamProto leaves the labels for labelsProto.
func (b *Batch) streamProto(msg []byte) (err error) {
	text := []byte{} // what a stream without labels has; nil is for one without entries
	first := len(b.entries)
	f := fields{buf: msg}
	for f.next() {
		switch {
		case f.is(2, protowire.BytesType):
			if err := b.entryProto(f.value); err != nil {
				return err
			}
		case f.is(1, protowire.BytesType):
			text = f.value
		}
	}
	if f.err != nil {
		return badProto(f.err)
	}
	if len(b.entries) == first {
		text = nil
	}
	if b.texts, err = grow(b, b.texts); err != nil {
		return err
	}
	b.texts = append(b.texts, text)
	return b.closeStream(nil)
}

// labelsProto gives all streams of the batch their labels.
func (d *Decoder) labelsProto(b *Batch) (err error) {
	for from := 0; from < len(b.texts); from += lookUps {
		to := min(from+lookUps, len(b.texts))
		d.labels.known.getAll(b.texts[from:to], b.known[from:to])
		for i := from; i < to; i++ {
			if b.texts[i] == nil {
				continue
			}
			if b.known[i] == nil {
				if b.known[i], err = d.labels.text(b.texts[i]); err != nil {
					return err
				}
			}
			b.Streams[i].Labels = b.known[i].Labels
		}
	}
	return nil
}

func (b *Batch) entryProto(msg []byte) error {
	var sec, nanos int64
	var line []byte
	pairs := len(b.pairs)
	f := fields{buf: msg}
	for f.next() {
		if f.typ != protowire.BytesType {
			continue
		}
		switch f.num {
		case 1:
			ts := fields{buf: f.value}
			for ts.next() {
				switch {
				case ts.is(1, protowire.VarintType):
					sec = int64(ts.n)
				case ts.is(2, protowire.VarintType):
					nanos = int64(int32(ts.n))
				}
			}
			if ts.err != nil {
				return badProto(ts.err)
			}
		case 2:
			line = f.value
		case 3:
			if err := b.pairProto(f.value); err != nil {
				return err
			}
		}
	}
	if f.err != nil {
		return badProto(f.err)
	}
	ns, ok := nanoseconds(sec, nanos)
	if !ok {
		return fault.New(fault.Invalid, "timestamp: seconds:%d nanos:%d is out of range", sec, nanos)
	}
	if err := b.addEntry(ns, line); err != nil {
		return err
	}
	return b.closePairs(pairs)
}

func (b *Batch) pairProto(msg []byte) error {
	var name, value []byte
	f := fields{buf: msg}
	for f.next() {
		switch {
		case f.is(1, protowire.BytesType):
			name = f.value
		case f.is(2, protowire.BytesType):
			value = f.value
		}
	}
	if f.err != nil {
		return badProto(f.err)
	}
	return b.addPair(alias(name), alias(value))
}
