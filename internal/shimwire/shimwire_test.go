package shimwire_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/internal/shimwire"
)

func message(t *testing.T, framed []byte) []byte {
	t.Helper()
	body := framed[shimwire.LengthSize:]
	if n := shimwire.Length([shimwire.LengthSize]byte(framed)); n != len(body) {
		t.Errorf("the length says %d of %d bytes", n, len(body))
	}
	return body
}

func TestRoundTrip(t *testing.T) {
	r := shimwire.Request{Plugin: "bridge", Env: []string{"CNI_COMMAND=ADD", "X="}, Stdin: []byte("{}\x00")}
	if got, ok := shimwire.ParseRequest(message(t, r.Append(nil))); !ok || !cmp.Equal(got, r) {
		t.Errorf("request came back as %+v, %v", got, ok)
	}
	for _, a := range []shimwire.Answer{{OK: true, Stdout: []byte("{}"), Stderr: []byte{}}, {Stdout: []byte{}, Stderr: []byte("a line\n")}} {
		if got, ok := shimwire.ParseAnswer(message(t, a.Append(nil))); !ok || !cmp.Equal(got, a) {
			t.Errorf("answer came back as %+v, %v", got, ok)
		}
	}
	if _, ok := shimwire.ParseRequest([]byte("\x00\x00\x00\x0dnodekit-cni/2")); ok {
		t.Error("another protocol was read")
	}
	if n := shimwire.Length([shimwire.LengthSize]byte{0xff, 0, 0, 0}); n != -1 {
		t.Errorf("a length beyond all bounds was read as %d", n)
	}
}

// FuzzParse: every message is refused or is exactly what its content would be
// written as.
func FuzzParse(f *testing.F) {
	r := shimwire.Request{Plugin: "p", Env: []string{"A=1"}, Stdin: []byte("x")}
	f.Add(r.Append(nil)[shimwire.LengthSize:])
	f.Add([]byte("\x00\x00\x00\x02ok\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := shimwire.ParseRequest(b); ok && !cmp.Equal(message(t, r.Append(nil)), b) {
			t.Errorf("%q was read as %+v", b, r)
		}
		if a, ok := shimwire.ParseAnswer(b); ok && !cmp.Equal(message(t, a.Append(nil)), b) {
			t.Errorf("%q was read as %+v", b, a)
		}
	})
}
