package systemd_test

import (
	"errors"
	"testing"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/systemd"
)

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"/usr/bin/nodekit":   "/usr/bin/nodekit",
		"--root=/var/lib/n":  "--root=/var/lib/n",
		"/opt/my dir/n":      `"/opt/my dir/n"`,
		"/opt/100%/n":        "/opt/100%%/n",
		"%h %n":              `"%%h %%n"`,
		"":                   `""`,
		";":                  `";"`,
		`a"b`:                `"a\"b"`,
		`a\x20b`:             `"a\\x20b"`,
		"it's":               `"it's"`,
		"$(CSI_ENDPOINT)":    `"$(CSI_ENDPOINT)"`,
		"/opt/größe/nodekit": "/opt/größe/nodekit",
	} {
		if got, err := systemd.Quote(in); err != nil || got != want {
			t.Errorf("Quote(%q) = %s, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"a\nb", "a\tb", "\x00", "\xff"} {
		if got, err := systemd.Quote(in); !errors.Is(err, fault.Invalid) {
			t.Errorf("Quote(%q) = %s, %v; want fault.Invalid", in, got, err)
		}
	}
}
