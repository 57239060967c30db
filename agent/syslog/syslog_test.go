package syslog

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var now = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

// show prints a message in one line.
func show(m *Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s.%s", m.FacilityName(), m.SeverityName())
	if !m.Time.IsZero() {
		fmt.Fprintf(&b, " %s", m.Time.UTC().Format(time.RFC3339Nano))
	}
	fmt.Fprintf(&b, " host=%s app=%s proc=%s id=%s", m.Hostname, m.AppName, m.ProcID, m.MsgID)
	for _, e := range m.Structured {
		fmt.Fprintf(&b, " [%s", e.ID)
		for _, p := range e.Params {
			fmt.Fprintf(&b, " %s=%q", p.Name, p.Value)
		}
		b.WriteString("]")
	}
	fmt.Fprintf(&b, " %q", m.Text)
	return b.String()
}

func TestParse5424(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		var m Message
		got := ""
		if err := Parse5424([]byte(in), &m); err != nil {
			got = "error: " + err.Error()
		} else {
			got = show(&m)
		}
		if got != want {
			t.Errorf("%q\n got %s\nwant %s", in, got, want)
		}
	}
	f(`<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3" eventSource="Application"] An application event`,
		`local4.notice 2003-10-11T22:14:15.003Z host=mymachine.example.com app=evntslog proc= id=ID47 [exampleSDID@32473 iut="3" eventSource="Application"] "An application event"`)
	f("<34>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - \xef\xbb\xbf%% It's time", `auth.critical 2003-08-24T12:14:15.000003Z host=192.0.2.1 app=myproc proc=8710 id= "%% It's time"`)
	f(`<0>1 - - - - - -`, `kern.emergency host= app= proc= id= ""`)
	f(`<191>1 - - - - - [a][b x="1"] text`, `local7.debug host= app= proc= id= [a] [b x="1"] "text"`)
	f(`<14>1 - h a p m [a v="q\"b\]c\\d\e"] m`, `user.informational host=h app=a proc=p id=m [a v="q\"b]c\\d\\e"] "m"`)
	f(`<192>1 - - - - - - x`, "error: "+errPriority.Error())
	f(`no`, "error: "+errPriority.Error())
	f(`<1>`, "error: "+errVersion.Error())
	f(`<1>1 yesterday h a p m - x`, `error: time is "yesterday", want RFC 3339`)
	f(`<1>1 - h a p m [a v="x`, "error: "+errStructured.Error())
	f(`<1>1 - h a`, "error: want time, host, application, process, message id and structured data, with blanks between them")
}

func TestParse3164(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		var m Message
		got := ""
		if err := Parse3164([]byte(in), now, &m); err != nil {
			got = "error: " + err.Error()
		} else {
			got = show(&m)
		}
		if got != want {
			t.Errorf("%q\n got %s\nwant %s", in, got, want)
		}
	}
	f(`<34>Oct 11 22:14:15 mymachine su[12]: 'su root' failed`, `auth.critical 2023-10-11T22:14:15Z host=mymachine app=su proc=12 id= "'su root' failed"`)
	f(`<13>Jan  2 03:04:06 h app: text`, `user.notice 2024-01-02T03:04:06Z host=h app=app proc= id= "text"`)
	f(`<13>2024-01-02T03:04:05.5+01:00 h app: text`, `user.notice 2024-01-02T02:04:05.5Z host=h app=app proc= id= "text"`)
	f(`<13>Jan  2 03:04:06 h no tag here`, `user.notice 2024-01-02T03:04:06Z host=h app= proc= id= "no tag here"`)
	f(`<13>just text`, `user.notice host= app= proc= id= "just text"`)
	f(`<13>`, `user.notice host= app= proc= id= ""`)
	f(`13>x`, "error: "+errPriority.Error())
}

func frames(in string, max int) (out []string) {
	fr := NewFramer(iotest{strings.NewReader(in)}, max)
	for {
		b, err := fr.Next()
		switch {
		case errors.Is(err, ErrTooLong):
			out = append(out, "too long")
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			return append(out, "error: "+err.Error())
		default:
			out = append(out, string(b))
		}
	}
}

// iotest gives one byte at a time.
type iotest struct{ r io.Reader }

func (t iotest) Read(p []byte) (int, error) { return t.r.Read(p[:min(1, len(p))]) }

func TestFramer(t *testing.T) {
	f := func(in string, max int, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, frames(in, max)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
	f("<1>a\n<2>b\r\n<3>c", 10, "<1>a", "<2>b", "<3>c")
	f("4 <1>a5 <1>\nb", 10, "<1>a", "<1>\nb")
	f("4 <1>a\n4 <2>b\n", 10, "<1>a", "<2>b")
	f("<1>"+strings.Repeat("x", 5000)+"\n<2>b\n", 10, "too long", "<2>b")
	f("20 <1>"+strings.Repeat("x", 17)+"4 <2>b", 10, "too long", "<2>b")
	f("4x<1>a", 10, "error: "+errFraming.Error()+`, got 'x'`)
	f("hello\n", 10, "error: "+errFraming.Error())
	f("9 <1>a", 10, "error: unexpected EOF")
	f("99999999999999999999 <1>a", 10, "error: "+errFraming.Error()+`, got '9'`)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`<165>1 2003-10-11T22:14:15.003Z host app - ID47 [a@1 iut="3" e="\]"] An event`))
	f.Add([]byte(`<34>Oct 11 22:14:15 mymachine su[12]: 'su root' failed`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var m Message
		if Parse5424(in, &m) == nil && len(m.Text) > len(in) {
			t.Error("the text is longer than the message")
		}
		_, _ = m.SeverityName(), m.FacilityName()
		if Parse3164(in, now, &m) == nil && len(m.Text) > len(in) {
			t.Error("the text is longer than the message")
		}
	})
}

// A stream is cut the same way whatever the reader's pieces, and memory stays bounded.
func FuzzFramer(f *testing.F) {
	f.Add([]byte("<1>a\n<2>b\n"))
	f.Add([]byte("4 <1>a5 <1>bb"))
	f.Fuzz(func(t *testing.T, in []byte) {
		const max = 64
		one := frames(string(in), max)
		fr := NewFramer(strings.NewReader(string(in)), max)
		for i := 0; ; i++ {
			b, err := fr.Next()
			if err != nil && !errors.Is(err, ErrTooLong) {
				return
			}
			if len(b) > max {
				t.Fatalf("a message of %d bytes", len(b))
			}
			if i >= len(one) || err == nil && one[i] != string(b) {
				t.Fatalf("message %d is %q, byte by byte it was %q", i, b, one)
			}
		}
	})
}

func BenchmarkParse5424(b *testing.B) {
	in := []byte(`<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3"] An application event log entry`)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	var m Message
	for b.Loop() {
		if err := Parse5424(in, &m); err != nil {
			b.Fatal(err)
		}
	}
}
