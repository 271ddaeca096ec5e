package bridge_test

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

// station sends and receives Ethernet frames of a type of its own on eth0 of a
// namespace. Frames that one station sends arrive in their order, so a frame that
// must not arrive is followed by one that must.
type station struct {
	t    *testing.T
	fd   int
	link *rtnl.Link
}

const ownType = 0x88b5 // for experiments (IEEE 802)

func newStation(t *testing.T, ns string) *station {
	t.Helper()
	s := &station{t: t}
	err := netns.Do(ns, func() (err error) {
		links, err := rtnl.Open()
		if err != nil {
			return err
		}
		defer links.Close()
		if s.link, err = links.Link("eth0"); err != nil {
			return err
		}
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: s.link.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	wait := unix.NsecToTimeval(int64(2 * time.Second))
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		t.Fatal(err)
	}
	return s
}

func bigEndian(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// send broadcasts a text; vlan 0 is untagged.
func (s *station) send(source []byte, vlan uint16, text string) {
	s.t.Helper()
	if _, err := unix.Write(s.fd, s.frame(source, vlan, text)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *station) frame(source []byte, vlan uint16, text string) []byte {
	frame := bytes.Repeat([]byte{0xff}, 6)
	frame = append(frame, source...)
	if vlan != 0 {
		frame = binary.BigEndian.AppendUint16(frame, 0x8100)
		frame = binary.BigEndian.AppendUint16(frame, vlan)
	}
	frame = binary.BigEndian.AppendUint16(frame, ownType)
	frame = append(frame, text...)
	return append(frame, make([]byte, max(0, 60-len(frame)))...)
}

// receive returns the next frame's text and VLAN. The socket hears all types: to
// those of one type the kernel does not tell the VLAN.
func (s *station) receive() (text string, vlan uint16) {
	s.t.Helper()
	b, control := make([]byte, 2048), make([]byte, 256)
	for {
		n, cn, _, from, err := unix.Recvmsg(s.fd, b, control, 0)
		if err != nil {
			return "nothing: " + err.Error(), 0
		}
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING || binary.BigEndian.Uint16(b[12:]) != ownType {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(control[:cn])
		if err != nil {
			s.t.Fatal(err)
		}
		for _, m := range messages {
			const tciAt = 16 // in struct tpacket_auxdata
			if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA {
				vlan = binary.NativeEndian.Uint16(m.Data[tciAt:])
			}
		}
		body, _, _ := bytes.Cut(b[14:n], []byte{0})
		return string(body), vlan
	}
}
