package cnisuite

import (
	"context"
	"fmt"
	"strings"

	"github.com/nodekit-project/nodekit/cni"
)

// Trial runs one ADD and its DEL before a run: if the plugin calls its own
// configuration invalid or unknown, or misses an IPAM plugin that is not on CNI_PATH,
// nearly every rule would fail and none would say anything about the plugin. Any other
// fault is left to the rules. It can be the suite's Prepare, whose work it does first.
func Trial(ctx context.Context, target Target) error {
	if err := prepare(ctx, target); err != nil {
		return err
	}
	return inTrial(ctx, &target, (*lab).tryConfig)
}

func (l *lab) tryConfig(ctx context.Context) error {
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
	if unclear != nil {
		return nil
	}
	if err := l.missed(e); err != nil {
		return err
	}
	if uint(e.Code) != cni.CodeConfig && uint(e.Code) != cni.CodeUnsupportedField {
		return nil
	}
	if l.target.Config == "" {
		return fmt.Errorf("the plugin refuses a configuration without keys, and nothing was tested: write one into a profile, as the fact config: code %d: %s", e.Code, e.Msg)
	}
	return fmt.Errorf("the plugin refuses the configuration of the profile, and nothing was tested: code %d: %s", e.Code, e.Msg)
}

// missed is the error for a plugin that complains about its IPAM plugin, which is in
// none of the directories of CNI_PATH. It may also be a part of the plugin: who does not
// name it does not miss it.
func (l *lab) missed(e *errorObject) error {
	kind, err := l.ipamType()
	if err != nil || kind == "" || !strings.Contains(e.Msg+e.Details, kind) {
		return err
	}
	if _, err := cni.Find(kind, l.path()); err != nil {
		return fmt.Errorf("the plugin's configuration needs an IPAM plugin that is not there, and nothing was tested: %w: name the directory that has it as the fact path, "+
			"or let the type be suite-ipam, which is the suite's own", err)
	}
	return nil
}
