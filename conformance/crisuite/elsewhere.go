package crisuite

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/client"
)

// elsewhereTime is how long a runtime may answer at another socket and not yet at
// the one that it was given. A proxy in front of a runtime has its socket moments
// after the runtime has its own.
const elsewhereTime = 5 * time.Second

// misplacedError says that a runtime runs but does not serve the socket that it
// was given: starting it again with the same command is useless.
type misplacedError struct{ text string }

func (e misplacedError) Error() string { return e.text }

// misplaced returns an error that describes what the runtime does instead.
func (r *runtime) misplaced(does string) error {
	return misplacedError{fmt.Sprintf("the runtime runs, and %s: it must serve %s, which it gets as CONTAINER_RUNTIME_ENDPOINT in its environment "+
		"and for $(CONTAINER_RUNTIME_ENDPOINT) in its arguments\nit printed: %s", does, r.endpoint, r.process.Tail())}
}

// looksElsewhere returns an error once the runtime has answered at another socket for
// elsewhereTime, and nil if ctx ends before that.
func (r *runtime) looksElsewhere(ctx context.Context) error {
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(elsewhereTime / 5):
		}
		at := r.answersAt(ctx)
		switch {
		case at == "":
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > elsewhereTime:
			return r.misplaced("answers at unix://" + at)
		}
	}
}

// answersAt returns the path of a socket, other than the one it was given, where the
// runtime speaks the CRI.
func (r *runtime) answersAt(ctx context.Context) string {
	for _, path := range r.listens() {
		if "unix://"+path == r.endpoint {
			continue
		}
		c, err := client.Dial("unix://"+path, nil)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, elsewhereTime/5)
		_, err = c.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
		cancel()
		_ = c.Close() // it served one call
		if err == nil {
			return path
		}
	}
	return ""
}
