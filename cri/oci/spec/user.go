package spec

import (
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// account is a line of passwd.
type account struct {
	name     string
	uid, gid uint32
}

// user resolves who the container's program runs as: the security context
// before the image, numbers as they are, names by the image's own files.
func user(in Input) (u specs.User, err error) {
	sec := in.security()
	if sec.GetRunAsGroup() != nil && sec.GetRunAsUser() == nil && sec.GetRunAsUsername() == "" {
		return u, fault.Invalid.Errorf("run_as_group without run_as_user")
	}
	if sec.GetRunAsUser() != nil && sec.GetRunAsUsername() != "" {
		return u, fault.Invalid.Errorf("run_as_user and run_as_username exclude each other")
	}
	if p := sec.GetSupplementalGroupsPolicy(); runtimeapi.SupplementalGroupsPolicy_name[int32(p)] == "" {
		return u, fault.Invalid.Errorf("unknown policy %d for supplemental groups", p)
	}
	accounts := parsePasswd(in.Users.Passwd)
	name, group, _ := strings.Cut(in.Image.User, ":")
	switch {
	case sec.GetRunAsUser() != nil:
		name, group = strconv.FormatInt(sec.GetRunAsUser().Value, 10), ""
	case sec.GetRunAsUsername() != "":
		name, group = sec.GetRunAsUsername(), ""
	}
	who, err := findAccount(accounts, firstOf(name, "0"))
	if err != nil {
		return u, err
	}
	if group != "" {
		if who.gid, err = findGroup(in.Users.Group, group); err != nil {
			return u, err
		}
	}
	if g := sec.GetRunAsGroup(); g != nil {
		if who.gid, err = id(g.Value); err != nil {
			return u, err
		}
	}
	u.UID, u.GID = who.uid, who.gid
	u.AdditionalGids, err = groups(in, who)
	return u, err
}

// groups are the supplemental groups: the primary one, those the Pod asks for
// and, unless the policy is Strict, those the image's group file gives.
func groups(in Input, who account) ([]uint32, error) {
	sec := in.security()
	list := []uint32{who.gid}
	for _, g := range sec.GetSupplementalGroups() {
		gid, err := id(g)
		if err != nil {
			return nil, err
		}
		list = append(list, gid)
	}
	if sec.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Merge && who.name != "" {
		for f := range lines(in.Users.Group, 4) {
			gid, err := strconv.ParseUint(f[2], 10, 32)
			if err == nil && slices.Contains(strings.Split(f[3], ","), who.name) {
				list = append(list, uint32(gid))
			}
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if len(list) > maxGroups {
		return nil, fault.Invalid.Errorf("a process has %d groups at most, and the container would have %d", maxGroups, len(list))
	}
	return list, nil
}

// maxGroups is NGROUPS_MAX, which no setting changes (setgroups(2)).
const maxGroups = 65536

func id(v int64) (uint32, error) {
	if v < 0 || v > 1<<31-1 {
		return 0, fault.Invalid.Errorf("user or group id %d is outside 0 to 2147483647", v)
	}
	return uint32(v), nil
}

// findAccount looks a name or number up. A number is never taken for a name:
// an image whose passwd says "1000:x:0:0" would turn user 1000, whom the
// kubelet has found not to be root, into root. A number that is in no file has
// group 0, as docker's has.
func findAccount(accounts []account, name string) (account, error) {
	n, err := strconv.ParseInt(name, 10, 64)
	if err != nil {
		for _, a := range accounts {
			if a.name == name {
				return a, nil
			}
		}
		return account{}, fault.Invalid.Errorf("the image has no user %q", name)
	}
	uid, err := id(n)
	if err != nil {
		return account{}, err
	}
	for _, a := range accounts {
		if a.uid == uid {
			return a, nil
		}
	}
	return account{uid: uid}, nil
}

func findGroup(file []byte, name string) (uint32, error) {
	if n, err := strconv.ParseInt(name, 10, 64); err == nil {
		return id(n)
	}
	for f := range lines(file, 3) {
		if f[0] == name {
			n, err := strconv.ParseInt(f[2], 10, 64)
			if err == nil {
				return id(n)
			}
		}
	}
	return 0, fault.Invalid.Errorf("the image has no group %q", name)
}

func parsePasswd(file []byte) (list []account) {
	for f := range lines(file, 4) {
		uid, uerr := strconv.ParseUint(f[2], 10, 31)
		gid, gerr := strconv.ParseUint(f[3], 10, 31)
		if uerr == nil && gerr == nil && f[0] != "" {
			list = append(list, account{f[0], uint32(uid), uint32(gid)})
		}
	}
	return list
}

// lines yields the fields of each line that has at least n of them. Anything
// else in the file is the image's own affair.
func lines(file []byte, n int) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(string(file)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) >= n && !yield(f) {
				return
			}
		}
	}
}
