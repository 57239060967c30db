package segment

import (
	"syscall"
	"testing"
)

// Nothing is read in front of a text or behind it: here it fills a page between two that cannot be read.
func TestNothingIsReadBesideTheText(t *testing.T) {
	page := syscall.Getpagesize()
	pages, err := syscall.Mmap(-1, 0, 3*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Munmap(pages) }()
	text := pages[page : 2*page : 2*page]
	for i := range text {
		text[i] = "0123456789abcdef-ABCDEF xyz"[i*i%27]
	}
	for _, closed := range [][]byte{pages[:page], pages[2*page:]} {
		if err := syscall.Mprotect(closed, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	eachWay(t, func(t *testing.T) {
		var set needleSet
		var classes lineClasses
		for n := range 200 {
			for _, line := range [][]byte{text[:n], text[page-n:]} {
				set.addLine(line)
				classes.find(line)
			}
		}
		set.addLine(text)
		classes.find(text)
	})
}
