// Package systemd is what a node asks of systemd where that is process 1: a
// scope for a process that is to outlive the service that started it, and the
// word that the service is ready. It imports D-Bus and is linked by nodekit
// alone, never by the keeper.
package systemd

import (
	"errors"
	"net"
	"os"
)

// The states that a service tells of itself.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
)

// notifyVariable is where systemd says to a service of Type=notify where it listens.
const notifyVariable = "NOTIFY_SOCKET"

// Notifier tells systemd how far the service is that this process is. The nil
// Notifier tells nobody. It keeps no connection and is safe for concurrent use.
type Notifier struct{ socket string }

// TakeNotifier returns the notifier of this process, nil when systemd did not
// start it or does not listen. It takes the address out of the environment, so
// that nothing started from now on speaks in the service's name: an OCI runtime
// that finds it there would make its container wait for such a word.
func TakeNotifier() (*Notifier, error) {
	socket := os.Getenv(notifyVariable)
	if socket == "" {
		return nil, nil
	}
	return &Notifier{socket: socket}, os.Unsetenv(notifyVariable)
}

// Tell sends a state. The one who asks may log its error: systemd then waits for
// the word until the unit's time limit.
func (n *Notifier) Tell(state string) error {
	if n == nil {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte(state))
	return errors.Join(err, conn.Close())
}
