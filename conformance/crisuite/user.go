package crisuite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

func userRules() []rule {
	return []rule{
		must("CRI-USER-001", "runs a container as the uid and the gid that it asks for",
			"LinuxContainerSecurityContext", "UID to run the container process as.", user("uid=4711 gid=4712", runAs(4711, 4712)), Isolation),
		must("CRI-USER-002", "runs a container as the user of the image whose name it asks for",
			"LinuxContainerSecurityContext", "User name to run the container process as. If specified, the user MUST exist in the container image (i.e. in the /etc/passwd inside the image), and be resolved there by the runtime; otherwise, the runtime MUST error.",
			checkUserName, Isolation),
		must("CRI-USER-003", "refuses a user name that the image does not have",
			"LinuxContainerSecurityContext", "If specified, the user MUST exist in the container image (i.e. in the /etc/passwd inside the image), and be resolved there by the runtime; otherwise, the runtime MUST error.", checkUnknownUser, Isolation),
		must("CRI-USER-004", "refuses a group without a user",
			"LinuxContainerSecurityContext", "run_as_group should only be specified when run_as_user or run_as_username is specified; otherwise, the runtime MUST error.", checkGroupAlone, Isolation),
		heavy(must("CRI-USER-005", "runs a container as its image's user when it asks for none",
			"Image", "User name that will run the command(s). This is used if UID is not set and no user is specified when creating container.", checkImageUsers, Isolation, Pull)),
		must("CRI-USER-006", "gives a container its supplemental groups",
			"LinuxContainerSecurityContext", "List of groups applied to the first process run in each container.", checkGroups, Isolation),
		must("CRI-USER-007", "merges supplemental groups with those of the image",
			"SupplementalGroupsPolicy", "Merge means that the container's provided SupplementalGroups and FsGroup (specified in SecurityContext) will be merged with the primary user's groups as defined in the container image (in /etc/group).", checkMerge, Isolation),
		must("CRI-USER-008", "leaves the image's groups out with the policy Strict",
			"SupplementalGroupsPolicy", "Strict means that the container's provided SupplementalGroups and FsGroup (specified in SecurityContext) will be used instead of any groups defined in the container image.", checkStrict, Isolation, SupplementalGroups),
		must("CRI-USER-009", "reports the user and the groups that a container was started with",
			"ContainerUser", "User identities initially attached to first process in the Linux container.", checkUserStatus, Isolation, SupplementalGroups),
		should("CRI-USER-010", "refuses a sandbox with a group and without a user",
			"LinuxSandboxSecurityContext", "run_as_group should only be specified when run_as_user is specified; otherwise, the runtime MUST error.", checkSandboxGroupAlone),
	}
}

func runAs(uid, gid int64) edit {
	return secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.RunAsUser, c.RunAsGroup = &runtimeapi.Int64Value{Value: uid}, &runtimeapi.Int64Value{Value: gid}
	})
}

func asName(name string) edit {
	return secure(func(c *runtimeapi.LinuxContainerSecurityContext) { c.RunAsUsername = name })
}

// user returns a check of what the id command prints.
func user(want string, edits ...edit) look {
	return func(ctx context.Context, s *subject) error {
		out, err := s.prints(ctx, "id", edits...)
		if err == nil && !strings.HasPrefix(out, want+" ") {
			return fmt.Errorf("the container's program is %q, want %q", strings.TrimSpace(out), want)
		}
		return err
	}
}

func checkUserName(ctx context.Context, s *subject) error {
	if err := user("uid=1000 gid=1001", asName("worker"))(ctx, s); err != nil {
		return err
	}
	other := secure(func(c *runtimeapi.LinuxContainerSecurityContext) { c.RunAsGroup = &runtimeapi.Int64Value{Value: 4712} })
	return user("uid=1000 gid=4712", asName("worker"), other)(ctx, s)
}

func checkUnknownUser(ctx context.Context, s *subject) error {
	return s.runsNot(ctx, "of a user whom the image does not have", asName("nobody-knows"))
}

func checkGroupAlone(ctx context.Context, s *subject) error {
	return s.runsNot(ctx, "with a group and no user", secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.RunAsGroup = &runtimeapi.Int64Value{Value: 5}
	}))
}

func checkSandboxGroupAlone(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 5}
	})
	if err == nil {
		return fmt.Errorf("a sandbox with a group and no user is %q", p.id)
	}
	return nil
}

func checkImageUsers(ctx context.Context, s *subject) error {
	for _, c := range [][2]string{{uidImage, "uid=1000 gid=1001"}, {userImage, "uid=1000 gid=1001"}, {groupImage, "uid=1000 gid=50000"}} {
		image, want := c[0], c[1]
		ref, err := s.present(ctx, image)
		if err != nil {
			return err
		}
		out, err := s.prints(ctx, "id", func(c *runtimeapi.ContainerConfig) { c.Image.Image = ref })
		if err != nil {
			return err
		}
		if !strings.HasPrefix(out, want+" ") {
			return fmt.Errorf("of the image %q the program is %q, want %q", image, strings.TrimSpace(out), want)
		}
	}
	return nil
}

// groups returns the supplemental groups that a container prints.
func (s *subject) groups(ctx context.Context, edits ...edit) ([]string, error) {
	out, err := s.prints(ctx, "id", edits...)
	_, list, _ := strings.Cut(strings.TrimSpace(out), "groups=")
	return strings.Split(list, ","), err
}

func supplemental(policy runtimeapi.SupplementalGroupsPolicy, groups ...int64) edit {
	return secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.SupplementalGroups, c.SupplementalGroupsPolicy = groups, policy
	})
}

func checkGroups(ctx context.Context, s *subject) error {
	got, err := s.groups(ctx, runAs(4711, 4712), supplemental(runtimeapi.SupplementalGroupsPolicy_Merge, 1234, 5678))
	if err == nil && (!slices.Contains(got, "1234") || !slices.Contains(got, "5678")) {
		return fmt.Errorf("the container's groups are %q, want 1234 and 5678", got)
	}
	return err
}

func checkMerge(ctx context.Context, s *subject) error {
	got, err := s.groups(ctx, runAs(1000, 1001), supplemental(runtimeapi.SupplementalGroupsPolicy_Merge, 1234))
	if err == nil && (!slices.Contains(got, "1234") || !slices.Contains(got, "50000")) {
		return fmt.Errorf("the container's groups are %q, want 1234, and 50000 of the image", got)
	}
	return err
}

func (s *subject) claimsPolicy() error {
	if !s.status.GetFeatures().GetSupplementalGroupsPolicy() {
		return conformance.NotApplicable("the runtime's status says nothing of supplemental_groups_policy")
	}
	return nil
}

func checkStrict(ctx context.Context, s *subject) error {
	if err := s.claimsPolicy(); err != nil {
		return err
	}
	got, err := s.groups(ctx, runAs(1000, 1001), supplemental(runtimeapi.SupplementalGroupsPolicy_Strict, 1234))
	if err == nil && (!slices.Contains(got, "1234") || slices.Contains(got, "50000")) {
		return fmt.Errorf("the container's groups are %q, want 1234, and not 50000 of the image", got)
	}
	return err
}

func checkUserStatus(ctx context.Context, s *subject) error {
	if err := s.claimsPolicy(); err != nil {
		return err
	}
	b, err := s.box(ctx, forever, runAs(1000, 1001), supplemental(runtimeapi.SupplementalGroupsPolicy_Merge, 1234))
	if err != nil {
		return err
	}
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	u := st.GetUser().GetLinux()
	if u.GetUid() != 1000 || u.GetGid() != 1001 || !slices.Contains(u.GetSupplementalGroups(), 1234) || !slices.Contains(u.GetSupplementalGroups(), 50000) {
		return errors.New("ContainerStatus: user " + u.String() + ", want 1000, 1001 and the groups 1234 and 50000")
	}
	return nil
}
