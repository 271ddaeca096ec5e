package cnisuite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"github.com/nodekit-project/nodekit/cni"
)

// Trial runs one ADD, and its DEL, before a run: when the plugin calls what it is
// configured with invalid or unknown, nearly every rule would fail and none would
// say anything of the plugin. Whatever else is wrong is for the rules.
func Trial(ctx context.Context, target Target) (err error) {
	if err := prepare(ctx, target); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "nk")
	if err != nil {
		return err
	}
	l := newLab(&target, dir)
	l.rand, l.log, l.measure = rand.New(rand.NewPCG(1, 1)), slog.New(slog.DiscardHandler), func(string, time.Duration) {}
	defer func() { err = errors.Join(err, l.close(ctx), os.RemoveAll(dir)) }()
	if err := l.open(ctx); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "ADD", c, with{})
	if err != nil {
		return err
	}
	e, unclear := out.failure()
	if unclear != nil || uint(e.Code) != cni.CodeConfig && uint(e.Code) != cni.CodeUnsupportedField {
		return nil
	}
	return fmt.Errorf("the plugin refuses the configuration of the profile, and nothing was tested: code %d: %s", e.Code, e.Msg)
}
