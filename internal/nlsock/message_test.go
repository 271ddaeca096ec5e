package nlsock

import (
	"bytes"
	"testing"
)

// TestAttributes reads back what was written.
func TestAttributes(t *testing.T) {
	m := New("a test", 1, 2, []byte{9, 9, 9, 9})
	m.U32(1, 0xdeadbeef)
	m.String(2, "odd")
	m.U8(3, 7)
	m.Nest(4, func() {
		m.Bytes(1, []byte("abcde")) // is padded
		m.NestRaw(2, []byte{1, 2, 3, 4}, func() { m.String(1, "deep") })
	})
	b := m.buf[headerLen+4:]
	if got := U32(Attr(b, 1)); got != 0xdeadbeef {
		t.Errorf("U32: %x", got)
	}
	if got := String(Attr(b, 2)); got != "odd" {
		t.Errorf("String: %q", got)
	}
	if got := Attr(b, 3); !bytes.Equal(got, []byte{7}) {
		t.Errorf("U8: %v", got)
	}
	nest := Attr(b, 4) // without its flag
	if got := Attr(nest, 1); string(got) != "abcde" {
		t.Errorf("Bytes: %q", got)
	}
	raw := Attr(nest, 2)
	if len(raw) < 4 || raw[3] != 4 || String(Attr(raw[4:], 1)) != "deep" {
		t.Errorf("NestRaw: %v", raw)
	}
	if Attr(b, 99) != nil {
		t.Error("there is an attribute that nobody wrote")
	}
	if m.tooLong {
		t.Error("it is too long")
	}
}

// FuzzAttrs: whatever the kernel, or somebody in its place, sends is read without
// a panic, and never beyond its end.
func FuzzAttrs(f *testing.F) {
	m := New("", 0, 0, nil)
	m.Nest(1, func() { m.String(2, "x") })
	for _, seed := range [][]byte{m.buf[headerLen:], {}, {4, 0, 1, 0}, {3, 0, 1, 0}, {0xff, 0xff, 1, 0, 5}, {5, 0, 1, 0, 7}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		Attrs(b, func(kind uint16, v []byte) {
			total += attrLen + len(v)
			Attrs(v, func(uint16, []byte) {})
			if first := Attr(b, kind); len(v) > 0 && first == nil {
				t.Errorf("kind %d is not found", kind)
			}
			U32(v)
			String(v)
		})
		if total > len(b) {
			t.Errorf("%d bytes were read of %d", total, len(b))
		}
	})
}

// FuzzRead does the same for whole answers.
func FuzzRead(f *testing.F) {
	ack := make([]byte, headerLen+4)
	ack[0], ack[4], ack[8] = byte(len(ack)), 2, 1
	f.Add(ack)
	f.Add(ack[:len(ack)-1])
	f.Add(append(ack[:len(ack):len(ack)], 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		messages := []*Message{{What: "begin", Silent: true}, {What: "one"}, {What: "two"}}
		x := exchange{messages: messages, answers: make([]Answer, len(messages)), first: 1, waiting: 2}
		_ = x.read(b)
	})
}
