package supervisor

import (
	"context"
	"time"
)

// The back-off between two starts of a kept process doubles while the process keeps
// dying, and starts over after it ran for calm.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
	calm         = 10 * time.Second
	stopGrace    = 5 * time.Second
)

// Event is what Keep reports about its process.
type Event struct {
	// PID is that of a process that has just started; 0 if it ended or could not be
	// started.
	PID int
	// Err is how the process ended, nil for exit code 0, or why it could not be
	// started.
	Err error
	// Restart is the time until the process is started again.
	Restart time.Duration
	// Tail is the end of what the process printed before it ended.
	Tail string
}

// Keep runs a command and starts it again, with back-off, whenever it ends. It blocks
// until ctx ends, then stops the process and returns nil. It returns an error if the
// very first start fails, and if the process did not stop when asked to and was
// killed. onEvent may be nil; it is called on one goroutine.
func Keep(ctx context.Context, command Command, onEvent func(Event)) error {
	process, err := Start(command)
	if err != nil {
		return err
	}
	return process.Keep(ctx, onEvent)
}

// Keep is like the function Keep for a process that was already started, and may have
// ended since.
func (p *Process) Keep(ctx context.Context, onEvent func(Event)) error {
	if onEvent == nil {
		onEvent = func(Event) {}
	}
	var err error
	backoff := firstBackoff
	for {
		began := time.Now()
		if err == nil {
			onEvent(Event{PID: p.PID()})
			select {
			case <-ctx.Done():
				return p.Stop(stopGrace)
			case <-p.Done():
			}
			err = p.Err()
		}
		if time.Since(began) >= calm {
			backoff = firstBackoff
		}
		onEvent(Event{Err: err, Restart: backoff, Tail: p.Tail()})
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, lastBackoff)
		err = p.Restart()
	}
}
