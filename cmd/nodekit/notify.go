package main

import (
	"log/slog"

	"github.com/nodekit-project/nodekit/internal/systemd"
)

// notifier reports the program's state to systemd, if systemd has started it as a
// service of Type=notify.
type notifier struct {
	systemd *systemd.Notifier
	log     *slog.Logger
}

// takeNotifier must be called before any process is started: that could otherwise
// report for the service.
func takeNotifier(log *slog.Logger) (notifier, error) {
	n, err := systemd.TakeNotifier()
	return notifier{n, log}, err
}

func (n notifier) tell(state string) {
	if err := n.systemd.Tell(state); err != nil {
		n.log.Warn("systemd does not listen", "err", err)
	}
}
