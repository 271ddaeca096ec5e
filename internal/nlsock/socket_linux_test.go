package nlsock

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t *testing.T) *Socket {
	t.Helper()
	s, err := Open(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// getLink asks for an interface.
func getLink(name string) *Message {
	m := New("looking for "+name, unix.RTM_GETLINK, 0, make([]byte, unix.SizeofIfInfomsg))
	m.String(unix.IFLA_IFNAME, name)
	return m
}

// TestExchange: each message has its own answer, in order, and an error on one is
// none on the others.
func TestExchange(t *testing.T) {
	s := open(t)
	answers, err := s.Exchange(getLink("lo"), getLink("nowhere0"), getLink("lo"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{nil, unix.ENODEV, nil} {
		if a := answers[i]; !errors.Is(a.Err, want) || (len(a.Replies) == 1) != (want == nil) {
			t.Errorf("answer %d: %d replies, %v", i, len(a.Replies), a.Err)
		}
	}
	if e := (*Error)(nil); !errors.As(answers[1].Err, &e) || e.What != "looking for nowhere0" {
		t.Errorf("the error is %v", answers[1].Err)
	}
	if answers, err := s.Exchange(); answers != nil || err != nil {
		t.Errorf("no message: %v, %v", answers, err)
	}
}

// TestExchangesTogether run one after the other.
func TestExchangesTogether(t *testing.T) {
	s := open(t)
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 50 {
				answers, err := s.Exchange(getLink("nowhere0"), getLink("lo"))
				if err != nil || answers[0].Err == nil || answers[1].Err != nil || len(answers[1].Replies) != 1 {
					t.Errorf("%+v, %v", answers, err)
					return
				}
			}
		})
	}
	running.Wait()
}

// TestTruncatedAnswer: one that does not fit is an error and no endless wait, and
// what is left of it harms no later exchange.
func TestTruncatedAnswer(t *testing.T) {
	s := open(t)
	if _, err := s.exchange(make([]byte, 64), []*Message{getLink("lo")}); !errors.Is(err, errTruncated) || !strings.Contains(err.Error(), "looking for lo") {
		t.Errorf("with a small buffer: %v", err)
	}
	answers, err := s.Exchange(getLink("lo"))
	if err != nil || answers[0].Err != nil || len(answers[0].Replies) != 1 {
		t.Errorf("afterwards: %+v, %v", answers, err)
	}
}

// TestCutOff: a part that ends within a message, or claims to.
func TestCutOff(t *testing.T) {
	ack := make([]byte, headerLen+4)
	binary.NativeEndian.PutUint32(ack, uint32(len(ack)))
	binary.NativeEndian.PutUint16(ack[4:], unix.NLMSG_ERROR)
	binary.NativeEndian.PutUint32(ack[8:], 1)
	longer := append([]byte(nil), ack...)
	longer[0]++
	for name, part := range map[string][]byte{"header": ack[:headerLen-1], "payload": ack[:headerLen+2], "length": longer, "nothing": make([]byte, headerLen)} {
		x := exchange{messages: []*Message{{What: name}}, answers: make([]Answer, 1), first: 1, waiting: 1}
		if err := x.read(part); !errors.Is(err, errTruncated) || x.waiting != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOversizedMessage is not sent, rather than with lengths that wrapped.
func TestOversizedMessage(t *testing.T) {
	s := open(t)
	for name, fill := range map[string]func(m *Message){
		"attribute": func(m *Message) { m.Bytes(unix.IFLA_IFALIAS, make([]byte, 1<<16-attrLen)) },
		"nest": func(m *Message) {
			m.Nest(unix.IFLA_LINKINFO, func() {
				for range 20 {
					m.Bytes(1, make([]byte, 4<<10))
				}
			})
		},
		"message": func(m *Message) {
			for range 200 {
				m.Bytes(unix.IFLA_IFALIAS, make([]byte, 16<<10))
			}
		},
	} {
		m := getLink("lo")
		fill(m)
		if _, err := s.Exchange(getLink("lo"), m); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("%s: %v", name, err)
		}
		if answers, err := s.Exchange(getLink("lo")); err != nil || answers[0].Err != nil {
			t.Errorf("after the %s: %v", name, err)
		}
	}
}
