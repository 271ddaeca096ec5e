package main

import (
	"log/slog"

	"github.com/nodekit-project/nodekit/internal/systemd"
)

// notifier tells systemd how far the program is, where systemd has started it as a
// service of Type=notify.
type notifier struct {
	systemd *systemd.Notifier
	log     *slog.Logger
}

// takeNotifier is called before anything is started, which would speak for the service
// otherwise.
func takeNotifier(log *slog.Logger) (notifier, error) {
	n, err := systemd.TakeNotifier()
	return notifier{n, log}, err
}

func (n notifier) tell(state string) {
	if err := n.systemd.Tell(state); err != nil {
		n.log.Warn("systemd does not listen", "err", err)
	}
}
