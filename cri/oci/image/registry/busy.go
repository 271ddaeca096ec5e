package registry

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/nodekit-project/nodekit/internal/fault"
)

const (
	// maxAsks is how often in total a busy place is asked.
	maxAsks = 5
	// busyPause is the wait before the second attempt if the place does not say how long;
	// each wait is twice the previous one.
	busyPause = 500 * time.Millisecond
	// maxPause is the longest wait. If a place asks for a longer one, that is an error; a
	// kubelet tries again by itself.
	maxPause = time.Minute
)

// leave is the time, in nanoseconds since 1970, until which a place does not want to be
// asked; zero if it did not say.
type leave struct{ until atomic.Int64 }

// note records what a response says about the time of the next request (RFC 9110,
// 10.2.3). Only responses that report too many requests count, including those of a token
// service or of the storage behind a registry.
func (l *leave) note(resp *http.Response) {
	if !saysBusy(resp.StatusCode) {
		return
	}
	var until int64
	given := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(given, 10, 32); err == nil {
		until = time.Now().Add(time.Duration(seconds) * time.Second).UnixNano()
	} else if errors.Is(err, strconv.ErrRange) {
		until = time.Now().Add(2 * maxPause).UnixNano()
	} else if at, err := http.ParseTime(given); err == nil {
		until = at.UnixNano()
	}
	l.until.Store(until)
}

func saysBusy(code int) bool {
	return code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable
}

// isBusy reports whether a place answered that it may serve later.
func isBusy(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && saysBusy(te.StatusCode)
}

// pauseBefore returns how long not to ask an endpoint that has been busy so many times.
func (e *endpoint) pauseBefore(times int) time.Duration {
	if asked := time.Until(time.Unix(0, e.leave.until.Load())); asked > 0 {
		return asked
	}
	return busyPause << (times - 1)
}

// patience waits until the first of the busy endpoints may be asked again, after so many
// attempts. It returns false at once if that takes too long.
func patience(ctx context.Context, busy []*endpoint, times int) bool {
	wait := maxPause + 1
	for _, e := range busy {
		wait = min(wait, e.pauseBefore(times))
	}
	if times == maxAsks || wait > maxPause {
		return false
	}
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

// explainBusy returns the error of a place that cannot serve now, and until when if that
// is long.
func (e *endpoint) explainBusy(te *transport.Error) error {
	if until := time.Unix(0, e.leave.until.Load()); time.Until(until) > maxPause {
		return fault.Unavailable.Errorf("%s cannot serve it now and is not to be asked before %s: %w", e.place, until.UTC().Format(time.RFC3339), te)
	}
	return fault.Unavailable.Errorf("%s cannot serve it now: %w", e.place, te)
}
