// Package shimwire is the protocol between a CNI shim and its daemon: one request and
// one answer per connection of a unix socket, each preceded by its length in four
// bytes (big endian). Both are lists of byte strings in the same form.
//
// It imports nothing, because a runtime starts the shim for every container.
package shimwire

// Protocol is the first string of a request. A daemon refuses any other.
const Protocol = "nodekit-cni/1"

// MaxSize bounds a message; it is far more than any configuration with its
// prevResult.
const MaxSize = 64 << 20

// LengthSize is the number of bytes before a message.
const LengthSize = 4

// Length decodes the length that precedes a message, or returns -1 if it is more than
// MaxSize.
func Length(b [LengthSize]byte) int {
	n := int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	if n > MaxSize {
		return -1
	}
	return n
}

// Request is one execution of a plugin: its name, the environment as "KEY=VALUE", and
// stdin.
type Request struct {
	Plugin string
	Env    []string
	Stdin  []byte
}

// Answer is what the plugin would have written, and whether it succeeded.
type Answer struct {
	OK             bool
	Stdout, Stderr []byte
}

// Append appends the message to b, including its length.
func (r *Request) Append(b []byte) []byte {
	return frame(b, func(b []byte) []byte {
		b = appendString(b, Protocol)
		b = appendString(b, r.Plugin)
		b = appendLength(b, len(r.Env))
		for _, kv := range r.Env {
			b = appendString(b, kv)
		}
		return appendString(b, string(r.Stdin))
	})
}

// Append appends the message to b, including its length.
func (a *Answer) Append(b []byte) []byte {
	return frame(b, func(b []byte) []byte {
		status := "failed"
		if a.OK {
			status = "ok"
		}
		b = appendString(b, status)
		b = appendString(b, string(a.Stdout))
		return appendString(b, string(a.Stderr))
	})
}

// ParseRequest parses a message without its length. ok is false if it is not a
// request, or of another protocol.
func ParseRequest(b []byte) (r Request, ok bool) {
	p := parser{rest: b}
	if p.text() != Protocol {
		return r, false
	}
	r.Plugin = p.text()
	for n := p.length(); n > 0 && !p.bad; n-- {
		r.Env = append(r.Env, p.text())
	}
	r.Stdin = p.bytes()
	return r, p.done()
}

// ParseAnswer parses a message without its length.
func ParseAnswer(b []byte) (a Answer, ok bool) {
	p := parser{rest: b}
	status := p.text()
	a.OK = status == "ok"
	a.Stdout, a.Stderr = p.bytes(), p.bytes()
	return a, p.done() && (a.OK || status == "failed")
}

func frame(b []byte, fill func([]byte) []byte) []byte {
	start := len(b)
	b = fill(append(b, make([]byte, LengthSize)...))
	appendLength(b[:start], len(b)-start-LengthSize)
	return b
}

func appendLength(b []byte, n int) []byte {
	return append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

func appendString(b []byte, s string) []byte {
	return append(appendLength(b, len(s)), s...)
}

type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) length() int {
	if len(p.rest) < LengthSize {
		p.bad = true
		return 0
	}
	n := Length([LengthSize]byte(p.rest))
	p.rest = p.rest[LengthSize:]
	p.bad = p.bad || n < 0
	return n
}

func (p *parser) bytes() []byte {
	n := p.length()
	if p.bad || n > len(p.rest) {
		p.bad = true
		return nil
	}
	out := p.rest[:n]
	p.rest = p.rest[n:]
	return out
}

func (p *parser) text() string { return string(p.bytes()) }

func (p *parser) done() bool { return !p.bad && len(p.rest) == 0 }
