package main

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// TestLibraryLogs: what libraries log goes nowhere, or to the logger that there is, and
// never to standard error.
func TestLibraryLogs(t *testing.T) {
	stderr := os.Stderr
	t.Cleanup(func() {
		os.Stderr = stderr
		logrus.SetOutput(stderr)
		logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	})
	file, err := os.Create(t.TempDir() + "/stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	os.Stderr = file
	logrus.SetOutput(file) // which it has from the start of a process on
	if code := run(t.Context(), []string{"version"}); code != 0 {
		t.Fatalf("nodekit version ends with %d", code)
	}
	logrus.Error("nowhere") // as ttrpc does
	var text bytes.Buffer
	logLibraries(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})))
	logrus.WithField("plugin", "10-x").Warn("somewhere")
	if got, err := os.ReadFile(file.Name()); err != nil || len(got) > 0 {
		t.Errorf("on standard error: %q, %v", got, err)
	}
	if got := text.String(); !strings.Contains(got, "somewhere") || !strings.Contains(got, "level=DEBUG") || !strings.Contains(got, "plugin=10-x") || strings.Contains(got, "nowhere") {
		t.Errorf("the logger got %q", got)
	}
}
