package main

import (
	"slices"
	"strings"
	"testing"
)

func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-02301000 r-xp 00000000 fe:00 12 /usr/bin/skald
Size:              31748 kB
Rss:               21952 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
02301000-04e00000 r--p 01f01000 fe:00 12 /usr/bin/skald
Anonymous:             0 kB
04e00000-04f00000 r--p 04a00000 fe:00 12 /usr/bin/skald
Rss:                1024 kB
Anonymous:           512 kB
04f00000-05000000 rw-p 04b00000 fe:00 12 /usr/bin/skald
Anonymous:             0 kB
05000000-05100000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000100000 r-xp 00000000 fe:00 99 /lib/libc.so.6
Anonymous:             0 kB
7f0000200000-7f0000300000 r-xp 00000000 fe:00 12 /usr/bin/skald (deleted)
Anonymous:             0 kB
`
	got, err := cleanMappings(strings.NewReader(smaps), "/usr/bin/skald")
	if err != nil {
		t.Fatal(err)
	}
	want := []mapping{{0x400000, 0x2301000}, {0x2301000, 0x4e00000}}
	if !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// The program goes on when its pages are taken away.
func TestReleaseProgramPages(t *testing.T) {
	if err := releaseProgramPages(); err != nil {
		t.Fatal(err)
	}
}
