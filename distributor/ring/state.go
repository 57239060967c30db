package ring

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// The map of instances is replicated without a coordinator: each instance writes its own
// entry (others may only declare it Left), every entry has a place in a total order, and of
// two entries of one ID the greater counts. The greatest of a set does not depend on the
// order in which its members are seen or on how often, so all processes that have heard the
// same things, in whatever order, hold the same map.

// compare orders entries of one ID: by the start of the process, then by its heartbeat. What
// follows only makes the order total, so that even entries that should not exist, of two
// processes with one ID and one start, end the same everywhere.
func compare(a, b *Instance) int {
	return cmp.Or(
		cmp.Compare(a.Started, b.Started),
		cmp.Compare(a.Process, b.Process),
		cmp.Compare(a.Heartbeat, b.Heartbeat),
		cmp.Compare(a.State, b.State),
		bytes.Compare(appendInstance(nil, a), appendInstance(nil, b)),
	)
}

// state is the map itself. Its entries have no Tokens, Seen or Stale.
type state map[string]Instance

// merge takes an entry in and reports whether it was news.
func (s state) merge(in Instance) bool {
	if have, ok := s[in.ID]; ok && compare(&in, &have) <= 0 {
		return false
	}
	s[in.ID] = in
	return true
}

// # Format
//
// A gossip message, and the state that two processes exchange when they meet, is a protobuf
// message of instances, so that versions of the program that add fields understand each other:
//
//	message State    { repeated Instance instances = 1; }
//	message Instance {
//	  string id = 1;        uint32 roles = 2;      string addr = 3;       string http = 4;
//	  string zone = 5;      uint32 state = 6;      fixed64 seed = 7;      uint32 tokens = 8;
//	  fixed64 started = 9;  fixed64 process = 10;  fixed64 heartbeat = 11; fixed64 registered = 12;
//	  fixed64 lost = 13;    fixed64 flushed = 14;
//	}
//
// An instance is about 120 bytes; a packet must hold one.
const (
	maxName      = 128    // bytes of an ID, an address or a zone
	maxInstances = 20_000 // in a state
)

func appendState(b []byte, instances []Instance) []byte {
	for i := range instances {
		one := appendInstance(nil, &instances[i])
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendBytes(b, one)
	}
	return b
}

func appendInstance(b []byte, in *Instance) []byte {
	str := func(n protowire.Number, s string) {
		if s != "" {
			b = protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
		}
	}
	small := func(n protowire.Number, v uint64) {
		if v != 0 {
			b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
		}
	}
	fixed := func(n protowire.Number, v uint64) {
		if v != 0 {
			b = protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), v)
		}
	}
	str(1, in.ID)
	small(2, uint64(in.Roles))
	str(3, in.Addr)
	str(4, in.HTTP)
	str(5, in.Zone)
	small(6, uint64(in.State))
	fixed(7, in.Seed)
	small(8, uint64(in.TokenCount))
	fixed(9, uint64(in.Started))
	fixed(10, in.Process)
	fixed(11, uint64(in.Heartbeat))
	fixed(12, uint64(in.Registered))
	fixed(13, uint64(in.Lost))
	fixed(14, uint64(in.Flushed))
	return b
}

var errWire = errors.New("damaged ring message")

// parseState reads what appendState wrote, with or without fields of later versions.
func parseState(b []byte) ([]Instance, error) {
	var instances []Instance
	err := eachField(b, func(n protowire.Number, t protowire.Type, value []byte, _ uint64) error {
		if n != 1 || t != protowire.BytesType {
			return nil
		}
		if len(instances) == maxInstances {
			return fmt.Errorf("%w: more than %d instances", errWire, maxInstances)
		}
		in, err := parseInstance(value)
		instances = append(instances, in)
		return err
	})
	return instances, err
}

func parseInstance(b []byte) (Instance, error) {
	var in Instance
	err := eachField(b, func(n protowire.Number, t protowire.Type, text []byte, v uint64) error {
		if t == protowire.BytesType && n <= 5 && len(text) > maxName {
			return fmt.Errorf("%w: field %d has %d bytes, want at most %d", errWire, n, len(text), maxName)
		}
		switch {
		case n == 1 && t == protowire.BytesType:
			in.ID = string(text)
		case n == 2 && t == protowire.VarintType:
			in.Roles = Role(v)
		case n == 3 && t == protowire.BytesType:
			in.Addr = string(text)
		case n == 4 && t == protowire.BytesType:
			in.HTTP = string(text)
		case n == 5 && t == protowire.BytesType:
			in.Zone = string(text)
		case n == 6 && t == protowire.VarintType:
			if v > uint64(Left) {
				return fmt.Errorf("%w: state %d, want at most %d", errWire, v, Left)
			}
			in.State = State(v)
		case n == 7 && t == protowire.Fixed64Type:
			in.Seed = v
		case n == 8 && t == protowire.VarintType:
			if v > MaxTokens {
				return fmt.Errorf("%w: %d tokens, want at most %d", errWire, v, MaxTokens)
			}
			in.TokenCount = int(v)
		case n == 9 && t == protowire.Fixed64Type:
			in.Started = int64(v)
		case n == 10 && t == protowire.Fixed64Type:
			in.Process = v
		case n == 11 && t == protowire.Fixed64Type:
			in.Heartbeat = int64(v)
		case n == 12 && t == protowire.Fixed64Type:
			in.Registered = int64(v)
		case n == 13 && t == protowire.Fixed64Type:
			in.Lost = int64(v)
		case n == 14 && t == protowire.Fixed64Type:
			in.Flushed = int64(v)
		}
		return nil
	})
	if err == nil && in.ID == "" {
		err = fmt.Errorf("%w: an instance without ID", errWire)
	}
	return in, err
}

// eachField calls f for every field, with its bytes or its number.
func eachField(b []byte, f func(n protowire.Number, t protowire.Type, text []byte, v uint64) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", errWire, protowire.ParseError(n))
		}
		b = b[n:]
		var text []byte
		var v uint64
		switch typ {
		case protowire.BytesType:
			text, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", errWire, protowire.ParseError(n))
		}
		b = b[n:]
		if err := f(num, typ, text, v); err != nil {
			return err
		}
	}
	return nil
}
