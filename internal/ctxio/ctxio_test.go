package ctxio_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/ctxio"
)

func TestReaderEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := ctxio.Reader(ctx, strings.NewReader("ab"))
	p := make([]byte, 1)
	if n, err := r.Read(p); n != 1 || err != nil || p[0] != 'a' {
		t.Fatalf("Read returns %d %q, %v, want the first byte", n, p, err)
	}
	cancel()
	if n, err := r.Read(p); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("Read after the context ended returns %d, %v, want context.Canceled", n, err)
	}
	if rest, err := io.ReadAll(ctxio.Reader(t.Context(), strings.NewReader("ab"))); err != nil || string(rest) != "ab" {
		t.Errorf("a reader whose context goes on returns %q, %v", rest, err)
	}
}
