package integration

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fabric is a network of its own: every member is in a network namespace whose only way out
// is a TUN device, and the test passes packets between them. So it can lose some, or all,
// and the kernels' TCP does what it does in life.
type fabric struct {
	t       testing.TB
	network string
	prefix  string // of names of namespaces and devices
	wg      sync.WaitGroup
	mu      struct {
		sync.Mutex
		ports map[netip.Addr]*port
		loss  map[netip.Addr]float64 // part of the packets to and from an address that is lost
	}
}

type port struct {
	file *os.File
	ns   string
}

// newFabric skips the test where there are no namespaces or TUN devices.
func newFabric(t testing.TB) *fabric {
	f := &fabric{t: t, network: fmt.Sprintf("10.%d.%d", 64+os.Getpid()%128, os.Getpid()/128%250), prefix: fmt.Sprintf("sk%x", os.Getpid()%0xffff)}
	f.mu.ports, f.mu.loss = map[netip.Addr]*port{}, map[netip.Addr]float64{}
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command("ip", "netns", "list").CombinedOutput(); err != nil {
		t.Skipf("ip netns: %v %s", err, out)
	}
	t.Cleanup(f.close)
	f.plug(f.network+".254", "") // the test itself
	return f
}

func (f *fabric) ip(args ...string) {
	f.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		f.t.Fatalf("ip %s: %v %s", strings.Join(args, " "), err, out)
	}
}

// namespace returns the namespace of an address, made when it is first asked for.
func (f *fabric) namespace(ip string) string {
	f.t.Helper()
	f.mu.Lock()
	p := f.mu.ports[netip.MustParseAddr(ip)]
	f.mu.Unlock()
	if p != nil {
		return p.ns
	}
	ns := f.prefix + "n" + ip[strings.LastIndexByte(ip, '.')+1:]
	f.ip("netns", "add", ns)
	f.plug(ip, ns)
	return ns
}

// plug makes a TUN device for an address.
func (f *fabric) plug(ip, ns string) {
	f.t.Helper()
	name := f.prefix + "t" + ip[strings.LastIndexByte(ip, '.')+1:]
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		f.t.Skipf("/dev/net/tun: %v", err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		f.t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		f.t.Skipf("TUN device %s: %v", name, err)
	}
	var in []string
	if ns != "" {
		f.ip("link", "set", name, "netns", ns)
		in = []string{"-n", ns}
		f.ip("-n", ns, "link", "set", "lo", "up")
	}
	f.ip(append(in, "addr", "add", ip+"/24", "dev", name)...)
	f.ip(append(in, "link", "set", name, "up")...)
	p := &port{file: os.NewFile(uintptr(fd), name), ns: ns}
	f.mu.Lock()
	f.mu.ports[netip.MustParseAddr(ip)] = p
	f.mu.Unlock()
	f.wg.Go(func() { f.pass(p) })
}

// pass forwards what comes out of a device, until it is closed.
func (f *fabric) pass(from *port) {
	buf := make([]byte, 65536)
	for {
		n, err := from.file.Read(buf)
		if err != nil {
			return
		}
		if n < 20 || buf[0]>>4 != 4 {
			continue
		}
		var src, dst [4]byte
		binary.BigEndian.PutUint32(src[:], binary.BigEndian.Uint32(buf[12:]))
		binary.BigEndian.PutUint32(dst[:], binary.BigEndian.Uint32(buf[16:]))
		a, b := netip.AddrFrom4(src), netip.AddrFrom4(dst)
		f.mu.Lock()
		to := f.mu.ports[b]
		loss := max(f.mu.loss[a], f.mu.loss[b])
		f.mu.Unlock()
		if to == nil || rand.Float64() < loss {
			continue
		}
		_, _ = to.file.Write(buf[:n]) // a full queue loses packets, as networks do
	}
}

// lose loses a part of the packets to and from a member: 1 cuts it off, 0 heals.
func (f *fabric) lose(m *member, part float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.loss[netip.MustParseAddr(m.ip)] = part
}

func (f *fabric) close() {
	f.mu.Lock()
	ports := f.mu.ports
	f.mu.Unlock()
	for _, p := range ports {
		_ = p.file.Close()
	}
	f.wg.Wait()
	for _, p := range ports {
		if p.ns != "" {
			_ = exec.Command("ip", "netns", "del", p.ns).Run()
		}
	}
}
