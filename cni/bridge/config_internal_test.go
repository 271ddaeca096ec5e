package bridge

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestIPTablesIsTaken: a configuration for upstream's plugin works, and its user
// learns where the rules are.
func TestIPTablesIsTaken(t *testing.T) {
	for backend, line := range map[string]string{"": "", "nftables": "", "iptables": "cni-cni0"} {
		c := &Config{IPMasq: true, IPMasqBackend: backend}
		if err := c.complete(); err != nil {
			t.Errorf("%q: %v", backend, err)
		}
		var log bytes.Buffer
		c.tell(slog.New(slog.NewTextHandler(&log, nil)))
		if got := log.String(); (got == "") != (line == "") || !strings.Contains(got, line) {
			t.Errorf("%q: the log says %q", backend, got)
		}
	}
}
