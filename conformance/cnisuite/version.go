package cnisuite

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/conformance"
)

// versionRules are about VERSION, after the first of them.
func versionRules(first conformance.Rule[Target]) []conformance.Rule[Target] {
	const must, should, advisory = conformance.Must, conformance.Should, conformance.Advisory
	return []conformance.Rule[Target]{
		first,
		checked(rule("CNI-VERSION-002", must, "VERSION needs no variable but CNI_COMMAND", "VERSION",
			"Required environment parameters: CNI_COMMAND"), checkBareVersion),
		checked(rule("CNI-VERSION-003", must, "the versions that it lists are ones that the specification has had", "VERSION Success",
			"supportedVersions: A list of supported specification versions"), checkListedVersions),
		checked(rule("CNI-VERSION-004", should, "it accepts each version that it lists, and refuses every other (de facto)", "Version considerations",
			"Plugins indicate their set of supported versions through the VERSION command"), checkEveryVersion),
		checked(rule("CNI-VERSION-005", should, "VERSION with an empty stdin is answered (de facto)", "VERSION",
			"The plugin should output via standard-out a json-serialized version result object"), checkEmptyVersion),
		checked(rule("CNI-VERSION-006", advisory, "VERSION changes nothing", "VERSION",
			"VERSION: probe plugin version support"), checkVersionLooks),
	}
}

// versionAnswer is the answer to VERSION.
type versionAnswer struct {
	CNIVersion        string   `json:"cniVersion"`
	SupportedVersions []string `json:"supportedVersions"`
}

func (l *lab) askVersion(ctx context.Context, w with) (*versionAnswer, error) {
	if w.stdin == nil {
		w.stdin = []byte(`{"cniVersion":"1.0.0"}`)
	}
	out, err := l.call(ctx, "VERSION", nil, w)
	if err != nil {
		return nil, err
	}
	var a versionAnswer
	if err := out.ok(&a); err != nil {
		return nil, err
	}
	if len(a.SupportedVersions) == 0 {
		return nil, fmt.Errorf("%s listed no supportedVersions: %s", out.what, out)
	}
	return &a, nil
}

func checkBareVersion(ctx context.Context, l *lab) error {
	_, err := l.askVersion(ctx, with{what: "VERSION with CNI_COMMAND alone", unset: []string{"CNI_PATH", "PATH"}})
	return err
}

var semver = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$`)

// checkListedVersions cannot know versions newer than the suite.
func checkListedVersions(ctx context.Context, l *lab) error {
	a, err := l.askVersion(ctx, with{})
	if err != nil {
		return err
	}
	for _, v := range a.SupportedVersions {
		if !semver.MatchString(v) {
			return fmt.Errorf("supportedVersions has %q, which is no version", v)
		}
		if cni.AtLeast(newest, v) && !slices.Contains(cni.Versions(), v) {
			return fmt.Errorf("supportedVersions has %q, which the specification never had", v)
		}
	}
	return nil
}

func checkEmptyVersion(ctx context.Context, l *lab) error {
	_, err := l.askVersion(ctx, with{what: "VERSION with an empty stdin", stdin: []byte{}})
	return err
}

func checkVersionLooks(ctx context.Context, l *lab) error {
	same, err := l.unchanged(nil)
	if err != nil {
		return err
	}
	if _, err := l.askVersion(ctx, with{}); err != nil {
		return err
	}
	if err := same(); err != nil {
		return fmt.Errorf("VERSION: %w", err)
	}
	return nil
}

// checkEveryVersion tries all versions, newest first. Before 0.3.0 there were no
// chains, so nothing to adjust, and no results without addresses.
func checkEveryVersion(ctx context.Context, l *lab) error {
	a, err := l.askVersion(ctx, with{})
	if err != nil {
		return err
	}
	lives, err := found(ctx, l, "a life in each version", liveInEachVersion)
	if err != nil {
		return err
	}
	bare := l.target.Kind == Chained
	for _, v := range slices.Backward(cni.Versions()) {
		listed := slices.Contains(a.SupportedVersions, v)
		if !listed {
			if err := l.refusesVersion(ctx, v); err != nil {
				return err
			}
			continue
		}
		if bare && !cni.AtLeast(v, "0.3.0") {
			continue
		}
		at := slices.IndexFunc(lives, func(f versionLife) bool { return f.version == v })
		if at < 0 {
			return fmt.Errorf("VERSION lists %s, and did not when it was asked before", v)
		}
		r, err := lives[at].fulfilled()
		if err != nil {
			return fmt.Errorf("VERSION lists %s: %w", v, err)
		}
		// Results before 0.3.0 never have ips.
		bare = bare || cni.AtLeast(v, "0.3.0") && len(r.IPs) == 0
	}
	return nil
}

func (l *lab) refusesVersion(ctx context.Context, v string) error {
	c, err := l.newContainerOf(v)
	if err != nil {
		return err
	}
	w := with{what: "ADD of cniVersion " + v, keys: map[string]any{"cniVersion": v}}
	out, err := l.call(ctx, "ADD", c, w)
	if err != nil {
		return err
	}
	if out.failed() != nil {
		return fmt.Errorf("%s succeeded, and VERSION does not list it", w.what)
	}
	return nil
}

// versionLife is an attachment in requests of one version.
type versionLife struct {
	version string
	ifName  string // of its container
	ns      string
	add     *answer
	del     *answer // nil after an ADD that failed
}

// fulfilled expects that ADD and DEL succeeded, and that ADD's result has its
// version.
func (f versionLife) fulfilled() (*result, error) {
	var r result
	if err := f.add.ok(&r); err != nil {
		return nil, err
	}
	if r.CNIVersion != f.version {
		return nil, fmt.Errorf("%s was answered with a result of cniVersion %q", f.add.what, r.CNIVersion)
	}
	return &r, f.del.ok(nil)
}

// liveInEachVersion runs the life of a container in each version that both plugin and
// suite support.
func liveInEachVersion(ctx context.Context, l *lab) ([]versionLife, error) {
	var all []versionLife
	for _, v := range slices.Backward(l.versions) {
		c, err := l.newContainerOf(v)
		if err != nil {
			return nil, err
		}
		f, keys := versionLife{version: v, ifName: c.ifName, ns: c.ns}, map[string]any{"cniVersion": v}
		if f.add, err = l.call(ctx, "ADD", c, with{what: "ADD of cniVersion " + v, keys: keys}); err != nil {
			return nil, err
		}
		if err := f.add.ended(); err != nil {
			return nil, err
		}
		if f.add.rc == 0 {
			if json.Valid(f.add.stdout) {
				c.result = f.add.stdout
			}
			if f.del, err = l.call(ctx, "DEL", c, with{what: "DEL of cniVersion " + v, keys: keys}); err != nil {
				return nil, err
			}
		}
		all = append(all, f)
	}
	return all, nil
}
