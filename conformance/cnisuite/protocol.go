package cnisuite

import (
	"context"
	"fmt"

	"github.com/nodekit-project/nodekit/conformance"
)

// protocolRules are about single executions.
func protocolRules() []conformance.Rule[Target] {
	version := rule("CNI-VERSION-001", conformance.Must, "VERSION echoes the version and lists what is supported",
		"VERSION Success", "cniVersion: The value of cniVersion specified on input; supportedVersions: A list of supported specification versions")
	version.Check = inLab(checkVersion)
	env := rule("CNI-ERROR-001", conformance.Must, "missing variables are an error of code 4 that names them",
		"Error", "4: Invalid necessary environment variables, like CNI_COMMAND, CNI_CONTAINERID, etc. The error message must contain the names of invalid variables")
	env.Check = inLab(checkMissingVariables)
	inError := rule("CNI-ERROR-002", conformance.Should, "an error object carries the protocol version",
		"Error", "cniVersion: The protocol version in use")
	inError.Check = inLab(checkErrorVersion)
	unsupported := rule("CNI-ERROR-003", conformance.Must, "an unsupported version is an error of code 1",
		"Error", "1: Incompatible CNI version")
	unsupported.Check = inLab(checkUnsupportedVersion)
	return append(versionRules(version), env, inError, unsupported)
}

func checkVersion(ctx context.Context, l *lab) error {
	for _, v := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		out, err := l.call(ctx, "VERSION", nil, with{stdin: fmt.Appendf(nil, `{"cniVersion":%q}`, v)})
		if err != nil {
			return err
		}
		var answer versionAnswer
		if err := out.ok(&answer); err != nil {
			return err
		}
		if answer.CNIVersion != v {
			return fmt.Errorf("VERSION of cniVersion %q was answered with cniVersion %q", v, answer.CNIVersion)
		}
		if len(answer.SupportedVersions) == 0 {
			return fmt.Errorf("VERSION listed no supportedVersions: %s", out.stdout)
		}
	}
	return nil
}

// checkMissingVariables keeps CNI_COMMAND: an execution without it is not a CNI call,
// and plugins answer it with a line about themselves.
func checkMissingVariables(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	for _, missing := range []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"} {
		if err := l.refusal(ctx, "ADD", c, with{what: "ADD without " + missing, unset: []string{missing}}, 4, missing); err != nil {
			return err
		}
	}
	return nil
}

// checkErrorVersion expects the request's version in the error of a plugin that has read
// the configuration and speaks that version. Otherwise no version is in use, and any will
// do: a plugin may check its variables before it reads anything.
func checkErrorVersion(ctx context.Context, l *lab) error {
	for _, w := range []with{
		{what: "ADD without CNI_CONTAINERID", unset: []string{"CNI_CONTAINERID"}},
		{what: "ADD of cniVersion 99.0.0", keys: map[string]any{"cniVersion": "99.0.0"}},
		{what: "ADD without a cniVersion", keys: map[string]any{"cniVersion": nil}},
	} {
		if err := l.errorVersion(ctx, w, ""); err != nil {
			return err
		}
	}
	for _, v := range l.versions {
		w := with{what: fmt.Sprintf("ADD of cniVersion %s without a name", v), keys: map[string]any{"cniVersion": v, "name": nil}}
		if err := l.errorVersion(ctx, w, v); err != nil {
			return err
		}
	}
	return nil
}

// errorVersion looks at the version in the error of an ADD; "" stands for any. That the
// ADD should have failed is for other rules.
func (l *lab) errorVersion(ctx context.Context, w with, want string) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "ADD", c, w)
	if err != nil || out.rc == 0 {
		return err
	}
	e, err := out.failure()
	if err != nil {
		return err
	}
	if e.CNIVersion == "" || want != "" && e.CNIVersion != want {
		return fmt.Errorf("the error object of an %s has the cniVersion %q: %s", w.what, e.CNIVersion, out.stdout)
	}
	return nil
}

func checkUnsupportedVersion(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	for _, command := range []string{"ADD", "DEL"} {
		w := with{what: command + " of cniVersion 99.0.0", keys: map[string]any{"cniVersion": "99.0.0"}}
		if err := l.refusal(ctx, command, c, w, 1); err != nil {
			return err
		}
	}
	return nil
}

// refusal makes a call that must fail with an error object that has the code and
// whose text contains the words.
func (l *lab) refusal(ctx context.Context, command string, c *container, w with, code int, words ...string) error {
	out, err := l.call(ctx, command, c, w)
	if err != nil {
		return err
	}
	e, err := out.refused(code)
	if err != nil {
		return err
	}
	return e.names(out.what, words...)
}
