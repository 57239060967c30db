package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A start touches most of the program: tables of every library are built, and the kernel maps
// the neighbours of each page that is read. A role needs a part of it again, an agent a small one.
// What is given back stays in the kernel's page cache, and what is used comes back by minor faults.

// programPagesAfter is when pages are given back once more: what the first configuration, the
// first scan and the first pushes touched is hardly used again.
const programPagesAfter = time.Minute

// keepProgramSmall gives the program's pages back now and once more a little later, and
// returns when the context ends or that is done.
func keepProgramSmall(ctx context.Context, after time.Duration) {
	_ = releaseProgramPages() // without /proc, or against the kernel's will, more stays resident
	select {
	case <-ctx.Done():
	case <-time.After(after):
		_ = releaseProgramPages() // as above
	}
}

// releaseProgramPages gives back the pages of the program's file that cannot differ from it.
func releaseProgramPages() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	list, err := cleanMappings(f, exe)
	if err != nil {
		return err
	}
	for _, m := range list {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise %x-%x: %w", m.start, m.end, errno)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// cleanMappings finds in the text of /proc/PID/smaps the mappings of a file that cannot be
// written and of which no page has been: a loader may have relocated addresses in a mapping
// before it was closed to writing, and such pages exist in memory alone.
func cleanMappings(smaps io.Reader, file string) ([]mapping, error) {
	var out []mapping
	var at mapping
	candidate := false
	sc := bufio.NewScanner(smaps)
	for sc.Scan() {
		fields := bytes.Fields(sc.Bytes())
		if len(fields) < 2 {
			continue
		}
		if from, to, ok := bytes.Cut(fields[0], []byte("-")); ok && len(fields) >= 5 {
			start, err1 := strconv.ParseUint(string(from), 16, 64)
			end, err2 := strconv.ParseUint(string(to), 16, 64)
			at = mapping{uintptr(start), uintptr(end)}
			perms := fields[1]
			candidate = err1 == nil && err2 == nil && len(perms) == 4 && perms[1] == '-' && len(fields) == 6 && string(fields[5]) == file
			continue
		}
		if candidate && string(fields[0]) == "Anonymous:" {
			if string(fields[1]) == "0" {
				out = append(out, at)
			}
			candidate = false
		}
	}
	return out, sc.Err()
}
