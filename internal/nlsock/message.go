// Package nlsock speaks netlink with few system calls: the requests of one step are
// sent to the kernel in one write, in order, and their answers come back together.
//
// It knows messages, attributes, acknowledgements and dumps, but not what they mean:
// internal/rtnl and internal/nft do. A library that opens a socket for every request
// costs more than the kernel's work on it.
package nlsock

import "encoding/binary"

// Sizes in linux/netlink.h.
const (
	headerLen = 16
	attrLen   = 4
	align     = 4
)

// nested is NLA_F_NESTED.
const nested = 0x8000

// Message is a request under construction. What names it in errors. Only one
// goroutine may use it; it may be sent again.
type Message struct {
	What string
	// Silent messages get no answer if they succeed, such as those that frame an
	// nfnetlink batch.
	Silent bool

	buf     []byte
	tooLong bool // an attribute is longer than its length field can express
}

// New begins a message. header is the family's header, which precedes the attributes.
// NLM_F_REQUEST and, unless the message is silent, NLM_F_ACK are added to the flags.
func New(what string, kind, flags uint16, header []byte) *Message {
	m := &Message{What: what, buf: make([]byte, headerLen, 256)}
	binary.NativeEndian.PutUint16(m.buf[4:], kind)
	binary.NativeEndian.PutUint16(m.buf[6:], flags)
	m.raw(header)
	return m
}

func (m *Message) raw(b []byte) {
	m.buf = append(m.buf, b...)
	for len(m.buf)%align != 0 {
		m.buf = append(m.buf, 0)
	}
}

// maxAttr is the greatest length that an attribute's length field can express.
const maxAttr = 1<<16 - 1

// Bytes adds an attribute. If an attribute is longer than 65,531 bytes, or nests that
// much, Exchange returns an error instead of sending the message.
func (m *Message) Bytes(kind uint16, value []byte) {
	m.tooLong = m.tooLong || attrLen+len(value) > maxAttr
	m.buf = binary.NativeEndian.AppendUint16(m.buf, uint16(attrLen+len(value)))
	m.buf = binary.NativeEndian.AppendUint16(m.buf, kind)
	m.raw(value)
}

// String adds a string with its terminating zero.
func (m *Message) String(kind uint16, value string) { m.Bytes(kind, append([]byte(value), 0)) }

// U8 adds a byte.
func (m *Message) U8(kind uint16, value uint8) { m.Bytes(kind, []byte{value}) }

// U32 adds a number in the machine's byte order.
func (m *Message) U32(kind uint16, value uint32) {
	m.Bytes(kind, binary.NativeEndian.AppendUint32(nil, value))
}

// Nest adds an attribute that contains those that fn adds.
func (m *Message) Nest(kind uint16, fn func()) {
	start := len(m.buf)
	m.Bytes(kind|nested, nil)
	fn()
	m.closeNest(start)
}

// NestRaw is Nest with bytes before the attributes and without the flag NLA_F_NESTED,
// which some older attributes must not have.
func (m *Message) NestRaw(kind uint16, header []byte, fn func()) {
	start := len(m.buf)
	m.Bytes(kind, header)
	fn()
	m.closeNest(start)
}

func (m *Message) closeNest(start int) {
	m.tooLong = m.tooLong || len(m.buf)-start > maxAttr
	binary.NativeEndian.PutUint16(m.buf[start:], uint16(len(m.buf)-start))
}

// Attrs calls fn with every attribute of b. The flags are cleared from kind.
func Attrs(b []byte, fn func(kind uint16, value []byte)) {
	for len(b) >= attrLen {
		size := int(binary.NativeEndian.Uint16(b))
		if size < attrLen || size > len(b) {
			return
		}
		fn(binary.NativeEndian.Uint16(b[2:])&^0xc000, b[attrLen:size])
		b = b[min(len(b), (size+align-1)&^(align-1)):]
	}
}

// Attr returns the value of the first attribute of the kind, or nil if there is none.
func Attr(b []byte, kind uint16) (value []byte) {
	Attrs(b, func(k uint16, v []byte) {
		if k == kind && value == nil {
			value = v
		}
	})
	return value
}

// U32 decodes a number in the machine's byte order; it returns 0 if b is too short.
func U32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// String decodes a string with or without its terminating zero.
func String(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
