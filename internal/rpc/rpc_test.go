package rpc

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/skaldlog/skald/internal/fault"
)

func TestKindsSurviveTheWay(t *testing.T) {
	if len(codeKinds) != len(kindCodes) {
		t.Fatalf("%d kinds share %d codes", len(kindCodes), len(codeKinds))
	}
	for kind := range kindCodes {
		got := Fault(Status(fault.New(kind, "text of %d", kind)))
		if fault.Of(got) != kind || got.Error() != fmt.Sprintf("text of %d", kind) {
			t.Errorf("kind %d came back as %d, %q", kind, fault.Of(got), got)
		}
	}
	if Status(nil) != nil || Fault(nil) != nil {
		t.Error("no error became one")
	}
	for err, want := range map[error]fault.Kind{
		Status(context.Canceled):                    fault.Canceled,
		Status(errors.New("plain")):                 fault.Internal,
		Status(status.Error(codes.Unavailable, "")): fault.Unavailable,
		status.Error(codes.Unimplemented, "nobody"): fault.Internal,
	} {
		if got := fault.Of(Fault(err)); got != want {
			t.Errorf("%v: kind %d, want %d", err, got, want)
		}
	}
}

func TestGatherKeepsTheCallersReference(t *testing.T) {
	data := make([]byte, 64<<10)
	freed := &freeCounter{}
	b := mem.NewBuffer(&data, freed)
	g := Gather{mem.SliceBuffer("head"), b}
	out, err := Codec().Marshal(&g)
	if err != nil || out.Len() != len("head")+len(data) {
		t.Fatalf("%d bytes, %v", out.Len(), err)
	}
	out.Free()
	if freed.n != 0 {
		t.Fatal("sending freed the caller's buffer")
	}
	b.Free()
	if freed.n != 1 {
		t.Fatalf("freed %d times, want once", freed.n)
	}
}

type freeCounter struct{ n int }

func (f *freeCounter) Get(n int) *[]byte { b := make([]byte, n); return &b }
func (f *freeCounter) Put(*[]byte)       { f.n++ }
