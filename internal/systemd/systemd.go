// Package systemd is what a node uses of systemd if that is process 1: a scope for a
// process that must outlive the service that started it, and the notification that
// the service is ready. It imports D-Bus and is linked only by nodekit, never by the
// keeper.
package systemd

import (
	"errors"
	"net"
	"os"
)

// The states that a service reports about itself.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
)

// notifyVariable has the address at which systemd listens for a service of
// Type=notify.
const notifyVariable = "NOTIFY_SOCKET"

// Notifier reports the state of this service to systemd. The nil Notifier does
// nothing. It keeps no connection and is safe for concurrent use.
type Notifier struct{ socket string }

// TakeNotifier returns the notifier of this process, or nil if systemd did not start
// it or does not listen. It removes the address from the environment, so that nothing
// started from now on speaks in the service's name: an OCI runtime that finds it
// there would make its container wait for such a notification.
func TakeNotifier() (*Notifier, error) {
	socket := os.Getenv(notifyVariable)
	if socket == "" {
		return nil, nil
	}
	return &Notifier{socket: socket}, os.Unsetenv(notifyVariable)
}

// Tell sends a state. The caller may just log an error: systemd then waits for the
// notification until the unit's timeout.
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
