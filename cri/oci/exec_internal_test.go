package oci

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri"
)

// stalling is a client that takes nothing for a while.
type stalling struct {
	bytes.Buffer
	stall time.Duration
}

func (s *stalling) Write(p []byte) (int, error) {
	time.Sleep(s.stall)
	s.stall = 0
	return s.Buffer.Write(p)
}

// TestDrainWaitsForSlowClient: what a program has written before its end reaches a client
// that does not read for longer than output is waited for, also where another process holds
// the streams, or writes on.
func TestDrainWaitsForSlowClient(t *testing.T) {
	for name, after := range map[string]func(*execStreams){
		"all closed": func(x *execStreams) { x.closeChild() },
		"held":       func(*execStreams) {},
		"written on": func(x *execStreams) {
			go func() {
				for {
					if _, err := x.child[1].Write(make([]byte, 512)); err != nil {
						return // it was cut
					}
				}
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := &stalling{stall: drainLimit + drainLimit/2}
			s := cri.Streams{Stdout: client, Stderr: io.Discard}
			x, err := newExecStreams(s)
			if err != nil {
				t.Fatal(err)
			}
			defer x.close()
			x.copy(s, nil)
			// More than one read takes, and so some of it is still in the pipe.
			text := bytes.Repeat([]byte("0123456789abcdef"), 5<<10)
			if _, err := x.child[1].Write(text); err != nil {
				t.Fatal(err)
			}
			after(x)
			begun := time.Now()
			x.drain(t.Context())
			x.closeChild()
			if !bytes.HasPrefix(client.Bytes(), text) {
				t.Errorf("the client got %d bytes of %d", client.Len(), len(text))
			}
			if took := time.Since(begun); took > 10*drainLimit {
				t.Errorf("it took %v", took)
			}
		})
	}
}
