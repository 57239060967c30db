package segment

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// DumpOptions say how much Dump prints.
type DumpOptions struct {
	// Blocks lists every block, not only the totals.
	Blocks bool
	// Streams lists every stream.
	Streams bool
	// Rows prints every row.
	Rows bool
	// Hex prints every byte of the file, part by part, with its meaning. For small files.
	Hex bool
}

// Dump prints what a segment is made of; 'skald debug segment' calls it. It stops at the
// first part that makes no sense, after printing those before.
func Dump(ctx context.Context, out io.Writer, src Source, opts DumpOptions) error {
	r, err := Open(ctx, src, ReaderOptions{})
	if err == nil {
		_, err = r.blocks()
	}
	if err != nil {
		return err
	}
	d := &dumper{ctx: ctx, r: r, out: bufio.NewWriter(out)}
	d.head()
	if opts.Blocks {
		d.blocks()
	}
	if opts.Streams {
		err = d.streams()
	}
	if opts.Rows && err == nil {
		err = d.rows()
	}
	if opts.Hex && err == nil {
		err = d.hex()
	}
	if ferr := d.out.Flush(); err == nil {
		err = ferr
	}
	return err
}

type dumper struct {
	ctx context.Context
	r   *Reader
	out *bufio.Writer
}

func (d *dumper) printf(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }

func instant(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

func (d *dumper) head() {
	i := d.r.Info()
	d.printf("segment      %s, format version %d\n", i.ID, Version)
	d.printf("tenant       %s, level %d\n", i.Tenant, i.Level)
	if len(i.MergedFrom) > 0 {
		d.printf("merged from  %s\n", strings.Join(i.MergedFrom, ", "))
	}
	d.printf("time         %s to %s\n", instant(i.MinTime), instant(i.MaxTime))
	d.printf("holds        %d rows of %d streams in %d blocks, %d bytes of lines\n", i.Rows, i.Streams, i.Blocks, i.RawBytes)
	d.printf("size         %d bytes", i.Size)
	if i.Size > 0 {
		d.printf(", lines/%.2f", float64(i.RawBytes)/float64(i.Size))
	}
	d.printf("\n")
	v := verifier{r: d.r, report: Report{Sizes: make(map[string]int64)}}
	v.sizes()
	for k := kindTimes; k <= kindIDLists; k++ {
		n := v.report.Sizes[k.String()]
		d.printf("  %-17s %10d  %5.1f %%\n", k, n, 100*float64(n)/float64(i.Size))
	}
	for n, g := range d.r.index.groups {
		d.printf("needle group %d: blocks %d to %d, %d columns, %d rows, %d pages at byte %d, %d pages of %d bytes of ids, %d of lists\n",
			n, g.firstBlock, g.firstBlock+g.blocks-1, g.columns, g.rows(), g.pages(), g.offset, g.ids.Pages, g.ids.PageBytes, len(g.ids.lists))
	}
}

func (d *dumper) blocks() {
	for i := range d.r.index.blocks {
		b := &d.r.index.blocks[i]
		d.printf("block %d at byte %d: %d rows, %d bytes of lines, streams %d to %d, %s to %s\n", i, b.offset, b.rows, b.bytes,
			b.stream, b.stream+b.streams-1, instant(b.first), instant(b.last))
		d.printf("  times %d, lengths %d, hashes %d, lines %d, needle width %d", b.times, b.lengths, b.hashes, b.lines, b.width)
		for _, c := range b.metadata {
			d.printf(", %s %d", d.r.index.names[c.name], c.length)
		}
		d.printf("\n")
	}
}

func (d *dumper) streams() error {
	t, err := d.r.streams(d.ctx, nil)
	if err != nil {
		return err
	}
	for i := range t.len() {
		d.printf("stream %d %s: rows %d to %d, %d bytes, %s to %s\n", i, t.get(i).labels, t.starts[i], t.starts[i+1]-1, t.bytes[i],
			instant(t.first[i]), instant(t.last[i]))
	}
	return nil
}

func (d *dumper) rows() error {
	t, err := d.r.streams(d.ctx, nil)
	if err != nil {
		return err
	}
	c := &cursor{r: d.r, block: -1}
	defer c.release()
	for i := range t.len() {
		d.printf("%s\n", t.get(i).labels)
		for c.row, c.end = t.starts[i], t.starts[i+1]; c.row < c.end; c.row++ {
			if err := c.load(d.ctx); err != nil {
				return err
			}
			d.printf("  %s %q", instant(c.ts()), c.line())
			for _, p := range c.pairs(nil) {
				d.printf(" %s=%q", p.name, p.value)
			}
			d.printf("\n")
		}
	}
	return nil
}

// part is a stretch of the file.
type part struct {
	title   string
	off     int64
	n       int
	at      place
	isFrame bool
}

// parts lists the whole file in order.
func (d *dumper) parts() []part {
	x, ft := d.r.index, d.r.footer
	out := []part{{title: "header: magic", off: 0, n: len(headerMagic)}}
	for i := range x.blocks {
		b := &x.blocks[i]
		for p := 0; p <= partMetadata+len(b.metadata)+1; p++ {
			at, off, n := b.at(i, p)
			title := fmt.Sprintf("block %d: %s", i, at.kind)
			if at.kind == kindMetadata {
				title += fmt.Sprintf(" %q", x.names[b.metadata[at.ordinal].name])
			}
			if n > 0 {
				out = append(out, part{title: title, off: off, n: n, at: at, isFrame: true})
			}
		}
	}
	for i := range x.groups {
		for p := range x.groups[i].pages() {
			off, n := x.groups[i].pageRange(p)
			out = append(out, part{title: fmt.Sprintf("needle group %d, page %d, and its checksum", i, p), off: off, n: n})
		}
		for p := range x.groups[i].ids.Pages {
			off, n := x.groups[i].idRange(p)
			out = append(out, part{title: fmt.Sprintf("needle group %d, page %d of the id table, and its checksum", i, p), off: off, n: n})
		}
		for p := range x.groups[i].ids.lists {
			off, n := x.groups[i].listRange(p)
			out = append(out, part{title: fmt.Sprintf("needle group %d, page %d of the lists, and its checksum", i, p), off: off, n: n})
		}
	}
	for i, p := range x.postings {
		out = append(out, part{title: fmt.Sprintf("postings of %q", p.name), off: p.offset, n: p.length, at: place{kind: kindPostings, ordinal: uint32(i)}, isFrame: true})
	}
	out = append(out,
		part{title: "stream table", off: ft.streamsOffset, n: ft.streamsLen, at: place{kind: kindStreams}, isFrame: true},
		part{title: "block index", off: ft.indexOffset, n: ft.indexLen, at: place{kind: kindIndex}, isFrame: true},
		part{title: "footer", off: ft.footerOffset, n: ft.footerLen, at: place{kind: kindFooter}, isFrame: true},
		part{title: "trailer: footer length, file size, version, checksum, magic", off: ft.footerOffset + int64(ft.footerLen), n: trailerSize})
	slices.SortStableFunc(out, func(a, b part) int { return int(a.off - b.off) })
	return out
}

// hex prints every part: its bytes as they are in the file and, for frames, decoded.
func (d *dumper) hex() error {
	for _, p := range d.parts() {
		bytes := make([]byte, p.n)
		if err := d.r.read(d.ctx, bytes, p.off, nil); err != nil {
			return err
		}
		d.printf("\n%06x %s\n", p.off, p.title)
		if !p.isFrame {
			d.bytes(bytes)
			continue
		}
		codec, n, body, err := checkFrame(bytes, p.at, maxSectionBytes)
		if err != nil {
			return d.r.corrupt(p.title, err)
		}
		d.bytes(bytes)
		d.printf("       codec %s, %d bytes raw, checksum %x\n", codec, n, bytes[len(bytes)-4:])
		switch codec {
		case CodecNone:
		case CodecFields:
			f := fields{b: body}
			text, ids := f.packed(nil, 2*n), f.packed(nil, n)
			if err := f.done(); err != nil {
				return d.r.corrupt(p.title, err)
			}
			d.printf("       text\n")
			d.bytes(text)
			d.printf("       ids\n")
			d.bytes(ids)
		default:
			raw, err := decompress(nil, codec, n, body)
			if err != nil {
				return d.r.corrupt(p.title, err)
			}
			d.bytes(raw)
		}
	}
	return nil
}

func (d *dumper) bytes(b []byte) {
	for _, line := range strings.SplitAfter(strings.TrimSuffix(hex.Dump(b), "\n"), "\n") {
		d.printf("       %s", line[6:])
	}
	d.printf("\n")
}
