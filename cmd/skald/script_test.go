package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"skald": main})
}

// TestScript runs the command line as users type it; testdata/script holds one archive per
// topic. Besides testscript's own commands there are:
//
//	status N PROGRAM ARG…      run it and demand this exit status
//	freeaddr NAME              set the variable NAME to a free loopback address
//	ready URL                  wait until a server says that it is ready
//	post URL FILE              POST a file as JSON; the answer is stdout
//	get URL                    GET; the answer is stdout
//	await FILE|URL PATTERN     wait until a file or page matches a regular expression
//	lines N                    demand that stdout has so many lines
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": scriptStatus, "freeaddr": scriptFreeAddr, "ready": scriptReady,
			"post": scriptPost, "get": scriptGet, "await": scriptAwait, "lines": scriptLines,
		},
		RequireUniqueNames: true,
	})
}

func need(ts *testscript.TestScript, ok bool, usage string) {
	if !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) >= 2, "status N PROGRAM ARG…")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func scriptFreeAddr(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 1, "freeaddr NAME")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	ts.Setenv(args[0], l.Addr().String())
}

// scriptPatience ends scripts that would wait for ever; it is no promise of the program.
const scriptPatience = time.Minute

func wait(ts *testscript.TestScript, what string, ok func() bool) {
	for deadline := time.Now().Add(scriptPatience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("after %s still not: %s", scriptPatience, what)
		}
	}
}

func scriptReady(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 1, "ready URL")
	wait(ts, args[0]+" is ready", func() bool {
		res, err := http.Get(args[0] + "/ready")
		if err != nil {
			return false
		}
		return res.Body.Close() == nil && res.StatusCode == http.StatusOK
	})
}

func scriptPost(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, len(args) == 2, "post URL FILE")
	res, err := http.Post(args[0], "application/json", bytes.NewReader([]byte(ts.ReadFile(args[1]))))
	answer(ts, neg, res, err)
}

func scriptGet(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, len(args) == 1, "get URL")
	res, err := http.Get(args[0])
	answer(ts, neg, res, err)
}

func answer(ts *testscript.TestScript, neg bool, res *http.Response, err error) {
	ts.Check(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	ts.Check(err)
	_, err = ts.Stdout().Write(text)
	ts.Check(err)
	if neg == (res.StatusCode/100 == 2) {
		ts.Fatalf("%s: %s", res.Status, text)
	}
}

func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "await FILE|URL PATTERN")
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	read := func() ([]byte, error) { return os.ReadFile(ts.MkAbs(args[0])) }
	if strings.HasPrefix(args[0], "http://") {
		read = func() ([]byte, error) { return page(args[0]) }
	}
	wait(ts, args[0]+" matches "+args[1], func() bool {
		text, err := read()
		return err == nil && pattern.Match(text)
	})
}

func page(url string) ([]byte, error) {
	res, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

func scriptLines(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 1, "lines N")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := bytes.Count([]byte(ts.ReadFile("stdout")), []byte("\n")); got != want {
		ts.Fatalf("stdout has %d lines, want %d", got, want)
	}
}
