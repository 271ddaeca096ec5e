package crisuite_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func eachLine(change func(i int, line string) string) func([]byte) []byte {
	return func(data []byte) []byte {
		var out strings.Builder
		i := 0
		for line := range strings.Lines(string(data)) {
			out.WriteString(change(i, line))
			i++
		}
		return []byte(out.String())
	}
}

func logMutants() []mutant {
	return []mutant{
		{"CRI-LOG-001", "logs what is printed as it is", rewriteLog(eachLine(func(_ int, line string) string { return strings.SplitN(line, " ", 4)[3] }))},
		{"CRI-LOG-002", "logs all as stdout", rewriteLog(eachLine(func(_ int, line string) string { return strings.Replace(line, " stderr ", " stdout ", 1) }))},
		{"CRI-LOG-003", "logs a long line as one", rewriteLog(func(data []byte) []byte {
			first := string(data[:bytes.IndexByte(data, ' ')])
			body := eachLine(func(_ int, line string) string { return strings.TrimSuffix(strings.SplitN(line, " ", 4)[3], "\n") })(data)
			return []byte(first + " stdout F " + string(body) + "\n")
		})},
		{"CRI-LOG-004", "loses the last line", rewriteLog(func(data []byte) []byte {
			return data[:bytes.LastIndexByte(data[:len(data)-1], '\n')+1]
		})},
		{"CRI-LOG-005", "does not open the log again", swallow(&runtimeapi.ReopenContainerLogResponse{}, "ReopenContainerLog", nil)},
		{"CRI-LOG-006", "loses a line at a rotation", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := c.req.(*runtimeapi.ReopenContainerLogRequest); ok {
				files, _ := filepath.Glob(logOf(c, r.ContainerId) + ".*")
				for _, file := range files {
					if data, err := os.ReadFile(file); err == nil && len(data) > 1 {
						_ = os.Truncate(file, int64(bytes.LastIndexByte(data[:len(data)-1], '\n')+1))
					}
				}
			}
			return resp, err
		}}},
		{"CRI-LOG-007", "makes a log that it does not open", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := c.req.(*runtimeapi.ReopenContainerLogRequest); ok {
				_ = os.WriteFile(logOf(c, r.ContainerId), nil, 0o600)
				return nil, status.Error(codes.FailedPrecondition, "the container does not run")
			}
			return resp, err
		}}},
		{"CRI-LOG-008", "makes no directories", refuse("CreateContainer", codes.NotFound, func(c *exchange) bool {
			return strings.Contains(c.req.(*runtimeapi.CreateContainerRequest).Config.LogPath, "/")
		})},
		{"CRI-LOG-009", "goes back in time", rewriteLog(eachLine(func(i int, line string) string {
			if i == 5 {
				return "2001" + line[4:]
			}
			return line
		}))},
		{"CRI-LOG-011", "ends a line where the program pauses", seen("in three pieces", rewriteLog(eachLine(func(_ int, line string) string {
			head, pieces := strings.CutSuffix(line, "onetwothree\n")
			if !pieces {
				return line
			}
			return head + "one\n" + head + "two\n" + head + "three\n"
		})))},
		{"CRI-LOG-012", "trims lines", seen("  spaces", rewriteLog(eachLine(func(_ int, line string) string {
			return strings.Replace(line, " F   ", " F ", 1)
		})))},
		{"CRI-LOG-012", "writes no empty lines", seen("the log has", rewriteLog(eachLine(func(_ int, line string) string {
			if strings.HasSuffix(line, " F \n") {
				return ""
			}
			return line
		})))},
		{"CRI-LOG-012", "writes text alone", seen("xff", rewriteLog(func(data []byte) []byte { return bytes.ToValidUTF8(data, []byte("?")) }))},
		{"CRI-LOG-010", "removes logs", fault{request: func(c *exchange, req proto.Message) (proto.Message, error) {
			if r, ok := req.(*runtimeapi.RemoveContainerRequest); ok {
				_ = os.Remove(logOf(c, r.ContainerId))
			}
			return nil, nil
		}}},
	}
}

func tellImage(change func(*runtimeapi.Image)) fault {
	return tell(func(r *runtimeapi.ImageStatusResponse) {
		if r.Image != nil {
			change(r.Image)
		}
	})
}

func imageMutants() []mutant {
	return []mutant{
		{"CRI-IMG-001", "has every image", tell(func(r *runtimeapi.ImageStatusResponse) { r.Image = &runtimeapi.Image{Id: "sha256:0", Size: 1} })},
		{"CRI-IMG-002", "does not weigh images", tellImage(func(i *runtimeapi.Image) { i.Size = 0 })},
		{"CRI-IMG-002", "lists no digests", seen("ListImages shows", tell(func(r *runtimeapi.ListImagesResponse) {
			for _, im := range r.Images {
				im.RepoDigests = nil
			}
		}))},
		{"CRI-IMG-003", "has no image ids of containers", tellStatus(func(s *runtimeapi.ContainerStatus) { s.ImageId = "" })},
		{"CRI-IMG-004", "removes an image once", refuse("RemoveImage", codes.NotFound, second)},
		{"CRI-IMG-004", "lists what is removed", seen("still in ListImages", listsRemovedImages())},
		{"CRI-IMG-005", "removes one tag", keepsTags()},
		{"CRI-IMG-006", "knows one tag", tellImage(func(i *runtimeapi.Image) { i.RepoTags = i.RepoTags[:1] })},
		{"CRI-IMG-007", "knows no digests", tellImage(func(i *runtimeapi.Image) { i.RepoDigests = nil })},
		{"CRI-IMG-008", "knows no users", tellImage(func(i *runtimeapi.Image) { i.Uid, i.Username = nil, "" })},
		{"CRI-IMG-009", "has images nowhere", tell(func(r *runtimeapi.ImageFsInfoResponse) {
			r.ImageFilesystems[0].FsId = &runtimeapi.FilesystemIdentifier{Mountpoint: "/no/such/place"}
		})},
		{"CRI-IMG-009", "does not measure images", seen("used bytes", tell(func(r *runtimeapi.ImageFsInfoResponse) {
			for _, fs := range r.ImageFilesystems {
				fs.UsedBytes = nil
			}
		}))},
		{"CRI-IMG-010", "measures images once", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := resp.(*runtimeapi.ImageFsInfoResponse); ok && err == nil {
				if first := c.note("fs", proto.Clone(r)); first != nil {
					return first.(proto.Message), nil
				}
			}
			return resp, err
		}}},
		{"CRI-IMG-011", "does not filter images", edit(func(r *runtimeapi.ListImagesRequest) { r.Filter = nil })},
		{"CRI-IMG-012", "is always verbose about images", tell(func(r *runtimeapi.ImageStatusResponse) { r.Info = info() })},
		{"CRI-IMG-013", "takes an image away from its containers", seen("beneath a container", emptiesContainers())},
		{"CRI-IMG-014", "pins what it pulls", seen("want false", both(
			tellImage(func(i *runtimeapi.Image) { i.Pinned = true }),
			tell(func(r *runtimeapi.ListImagesResponse) {
				for _, im := range r.Images {
					im.Pinned = true
				}
			}),
		))},
		{"CRI-IMG-014", "lists what it pulls as pinned", seen("ListImages shows", tell(func(r *runtimeapi.ListImagesResponse) {
			for _, im := range r.Images {
				im.Pinned = true
			}
		}))},
		{"CRI-IMG-014", "lists images of others as pinned", seen("in ListImages, and", tell(func(r *runtimeapi.ListImagesResponse) {
			for _, im := range r.Images {
				im.Pinned = strings.Contains(strings.Join(im.RepoTags, " "), "/suite/main:")
			}
		}))},
		{"CRI-IMG-015", "does not list as pinned what it pins", seen("ListImages shows", tell(func(r *runtimeapi.ListImagesResponse) {
			for _, im := range r.Images {
				im.Pinned = false
			}
		}))},
		{"CRI-IMG-015", "does not show as pinned what it pins", seen("ImageStatus shows", tellImage(func(i *runtimeapi.Image) { i.Pinned = false }))},
		{"CRI-IMG-015", "removes no pinned image", seen("of the removed image", swallow(&runtimeapi.RemoveImageResponse{}, "RemoveImage", nil))},
	}
}

// listsRemovedImages lists each image that it was asked about, also when it is removed.
func listsRemovedImages() fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		switch r := resp.(type) {
		case *runtimeapi.ImageStatusResponse:
			if err == nil && r.Image != nil {
				c.note("image", proto.Clone(r.Image))
			}
		case *runtimeapi.ListImagesResponse:
			known, _ := c.note("image", nil).(*runtimeapi.Image)
			if err == nil && known != nil && !slices.ContainsFunc(r.Images, func(one *runtimeapi.Image) bool { return one.Id == known.Id }) {
				r.Images = append(r.Images, known)
			}
		}
		return resp, err
	}}
}

// emptiesContainers removes a file of an image from its containers with it.
func emptiesContainers() fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		r, ok := c.req.(*runtimeapi.RemoveImageRequest)
		if !ok {
			return resp, err
		}
		all, listed := c.rt.ListContainers(c.ctx, &runtimeapi.ListContainersRequest{})
		if listed != nil {
			return resp, err
		}
		for _, one := range all.Containers {
			if pid := containerPID(c, one.Id); pid != "" && one.Image.GetImage() == r.Image.GetImage() {
				_ = os.Remove("/proc/" + pid + "/root/name")
			}
		}
		return resp, err
	}}
}

// keepsTags remembers every image that it has shown but the one that is removed.
func keepsTags() fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := c.req.(*runtimeapi.RemoveImageRequest); ok {
			c.note("removed "+r.Image.Image, true)
		}
		if r, ok := resp.(*runtimeapi.ImageStatusResponse); ok && err == nil && r.Image == nil {
			name := c.req.(*runtimeapi.ImageStatusRequest).Image.Image
			if strings.HasSuffix(name, ":v2") {
				r.Image = &runtimeapi.Image{Id: "sha256:kept", Size: 1, RepoTags: []string{name}}
			}
		}
		return resp, err
	}}
}

func pullMutants() []mutant {
	pulled := &runtimeapi.PullImageResponse{ImageRef: "sha256:pulled"}
	account := &runtimeapi.AuthConfig{Username: "suite", Password: "open sesame"}
	return []mutant{
		{"CRI-PULL-001", "tags what has none", tellImage(func(i *runtimeapi.Image) { i.RepoTags = []string{"suite.example/x:latest"} })},
		{"CRI-PULL-002", "pulls without the account", edit(func(r *runtimeapi.PullImageRequest) { r.Auth = nil })},
		{"CRI-PULL-003", "remembers an account", edit(func(r *runtimeapi.PullImageRequest) { r.Auth = account })},
		{"CRI-PULL-004", "pulls what is not there", whitewash("PullImage", pulled)},
		{"CRI-PULL-005", "does not look at digests", whitewash("PullImage", pulled)},
		{"CRI-PULL-006", "pulls an image for one", fault{
			request: func(c *exchange, req proto.Message) (proto.Message, error) {
				if c.method == "PullImage" && c.count("pull", 1) > 1 {
					c.count("pull", -1)
					return nil, status.Error(codes.Aborted, "the image is being pulled")
				}
				return nil, nil
			},
			answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
				if c.method == "PullImage" {
					c.count("pull", -1)
				}
				return resp, err
			},
		}},
		{"CRI-PULL-007", "pulls anything", whitewash("PullImage", pulled)},
		{"CRI-PULL-008", "has a new id for each pull", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := resp.(*runtimeapi.PullImageResponse); ok && c.calls > 1 {
				r.ImageRef += "2"
			}
			return resp, err
		}}},
		{"CRI-PULL-009", "does not come back to a registry that failed", seen("tried again", refuse("PullImage", codes.Unavailable, func(c *exchange) bool {
			return strings.Contains(c.req.(*runtimeapi.PullImageRequest).GetImage().GetImage(), "/cut/")
		}))},
		{"CRI-PULL-009", "has an image without the layer that was cut", create(func(c *runtimeapi.ContainerConfig) {
			if host, _, cut := strings.Cut(c.Image.Image, "/cut/"); cut {
				c.Image.Image = host + "/suite/main:v1"
			}
		})},
	}
}

func secured(change func(*runtimeapi.LinuxContainerSecurityContext)) fault {
	return create(func(c *runtimeapi.ContainerConfig) { change(c.Linux.SecurityContext) })
}

func securityMutants() []mutant {
	type sc = runtimeapi.LinuxContainerSecurityContext
	profile := func(kind runtimeapi.SecurityProfile_ProfileType) fault {
		return secured(func(c *sc) { c.Seccomp = &runtimeapi.SecurityProfile{ProfileType: kind} })
	}
	unconfined, standard := profile(runtimeapi.SecurityProfile_Unconfined), profile(runtimeapi.SecurityProfile_RuntimeDefault)
	return []mutant{
		{"CRI-SEC-001", "leaves capabilities as they are", secured(func(c *sc) { c.Capabilities = nil })},
		{"CRI-SEC-001", "adds and drops one capability", seen("capability", secured(func(c *sc) {
			c.Capabilities.AddCapabilities, c.Capabilities.DropCapabilities = c.Capabilities.AddCapabilities[:1], c.Capabilities.DropCapabilities[:1]
		}))},
		{"CRI-SEC-002", "drops nothing", secured(func(c *sc) { c.Capabilities.DropCapabilities = nil })},
		{"CRI-SEC-003", "knows no ambient capabilities", secured(func(c *sc) { c.Capabilities = nil })},
		{"CRI-SEC-004", "gives all a capability of the node", secured(func(c *sc) {
			c.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
		})},
		{"CRI-SEC-005", "runs nothing privileged", secured(func(c *sc) { c.Privileged = false })},
		{"CRI-SEC-006", "runs nothing privileged", secured(func(c *sc) { c.Privileged = false })},
		{"CRI-SEC-006", "runs everything privileged", seen("an ordinary container has", both(
			secured(func(c *sc) { c.Privileged = true }),
			runSandbox(func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true }),
		))},
		{"CRI-SEC-007", "does not set no_new_privs", seen("no_new_privs true", secured(func(c *sc) { c.NoNewPrivs = false }))},
		{"CRI-SEC-007", "always sets no_new_privs", seen("no_new_privs false", secured(func(c *sc) { c.NoNewPrivs = true }))},
		{"CRI-SEC-008", "has no read-only roots", secured(func(c *sc) { c.ReadonlyRootfs = false })},
		{"CRI-SEC-009", "masks nothing", secured(func(c *sc) { c.MaskedPaths = nil })},
		{"CRI-SEC-010", "has no read-only paths", secured(func(c *sc) { c.ReadonlyPaths = nil })},
		{"CRI-SEC-010", "has one read-only path", secured(func(c *sc) { c.ReadonlyPaths = c.ReadonlyPaths[:1] })},
		{"CRI-SEC-011", "filters no system calls", unconfined},
		{"CRI-SEC-012", "always filters system calls", standard},
		{"CRI-SEC-013", "knows no profiles of the node", unconfined},
		{"CRI-SEC-014", "runs without the profile", unconfined},
		{"CRI-SEC-015", "filters what is privileged", both(secured(func(c *sc) { c.Privileged = false }), standard)},
		{"CRI-SEC-017", "has no AppArmor", secured(func(c *sc) {
			c.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		})},
		{"CRI-SEC-018", "always confines", secured(func(c *sc) {
			c.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		})},
		{"CRI-SEC-019", "runs without the AppArmor profile", seen("ran", secured(func(c *sc) { c.Apparmor = nil }))},
		{"CRI-SEC-020", "has no SELinux labels of one's own", seen("SELinux level", unlabelled)},
		{"CRI-SEC-021", "has one SELinux level", seen("of two Pods", both(
			runSandbox(func(c *runtimeapi.PodSandboxConfig) {
				c.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1,c2"}
			}), secured(func(c *sc) { c.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1,c2"} }),
		))},
		{"CRI-SEC-016", "has /proc read-only", secured(func(c *sc) { c.Privileged, c.ReadonlyPaths = false, []string{"/proc/sys"} })},
	}
}

// unlabelled forgets the SELinux labels that are asked for.
var unlabelled = both(
	runSandbox(func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.SelinuxOptions = nil }),
	secured(func(c *runtimeapi.LinuxContainerSecurityContext) { c.SelinuxOptions = nil }),
)

func userMutants() []mutant {
	type sc = runtimeapi.LinuxContainerSecurityContext
	policy := tell(func(r *runtimeapi.StatusResponse) {
		r.Features = &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true}
	})
	return []mutant{
		{"CRI-USER-001", "runs all as root", secured(func(c *sc) { c.RunAsUser, c.RunAsGroup = nil, nil })},
		{"CRI-USER-002", "knows no names", secured(func(c *sc) { c.RunAsUsername = "" })},
		{"CRI-USER-002", "forgets the group beside a name", seen("4712", secured(func(c *sc) { c.RunAsGroup = nil }))},
		{"CRI-USER-003", "takes a stranger for root", secured(func(c *sc) { c.RunAsUsername = "" })},
		{"CRI-USER-004", "forgets a group without a user", secured(func(c *sc) { c.RunAsGroup = nil })},
		{"CRI-USER-005", "forgets the image's user", secured(func(c *sc) { c.RunAsUser = &runtimeapi.Int64Value{} })},
		{"CRI-USER-006", "forgets supplemental groups", secured(func(c *sc) { c.SupplementalGroups = nil })},
		{"CRI-USER-007", "does not look into the image", secured(func(c *sc) { c.RunAsUser = &runtimeapi.Int64Value{Value: 4711} })},
		{"CRI-USER-008", "merges always", both(policy, secured(func(c *sc) { c.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Merge }))},
		{"CRI-USER-009", "says nothing of users", both(policy, tellStatus(func(s *runtimeapi.ContainerStatus) { s.User = nil }))},
		{"CRI-USER-010", "forgets a sandbox's group", runSandbox(func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.RunAsGroup = nil })},
	}
}

func mounted(change func(*runtimeapi.Mount)) fault {
	return create(func(c *runtimeapi.ContainerConfig) {
		for _, m := range c.Mounts {
			change(m)
		}
	})
}

func mountMutants() []mutant {
	propagation := func(p runtimeapi.MountPropagation) fault {
		return mounted(func(m *runtimeapi.Mount) { m.Propagation = p })
	}
	noMounts := create(func(c *runtimeapi.ContainerConfig) { c.Mounts = nil })
	plain := mounted(func(m *runtimeapi.Mount) { m.RecursiveReadOnly, m.Propagation = false, 0 })
	recursive := claims(&runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true})
	return []mutant{
		{"CRI-MOUNT-001", "mounts nothing", noMounts},
		{"CRI-MOUNT-002", "mounts all for writing", mounted(func(m *runtimeapi.Mount) { m.Readonly = false })},
		{"CRI-MOUNT-002", "mounts files for writing", seen("file", mounted(func(m *runtimeapi.Mount) {
			if info, err := os.Stat(m.HostPath); err == nil && !info.IsDir() {
				m.Readonly = false
			}
		}))},
		{"CRI-MOUNT-003", "makes what is not there", mounted(func(m *runtimeapi.Mount) { _ = os.MkdirAll(m.HostPath, 0o755) })},
		{"CRI-MOUNT-004", "does not follow links", mounted(func(m *runtimeapi.Mount) { m.HostPath = filepath.Dir(m.HostPath) })},
		{"CRI-MOUNT-005", "propagates always", propagation(runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER)},
		{"CRI-MOUNT-006", "propagates nothing", propagation(runtimeapi.MountPropagation_PROPAGATION_PRIVATE)},
		{"CRI-MOUNT-007", "propagates one way", propagation(runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER)},
		{"CRI-MOUNT-008", "makes the top read-only", both(recursive, plain)},
		{"CRI-MOUNT-009", "takes any recursive mount", both(recursive, plain)},
		{"CRI-MOUNT-010", "hides a mount below another", create(func(c *runtimeapi.ContainerConfig) {
			c.Mounts = slices.DeleteFunc(c.Mounts, func(m *runtimeapi.Mount) bool { return m.ContainerPath == "/mnt/sub" })
		})},
		{"CRI-MOUNT-011", "says nothing of mounts", tellStatus(func(s *runtimeapi.ContainerStatus) { s.Mounts = nil })},
		{"CRI-MOUNT-011", "says that all mounts are read-only", seen("want", tellStatus(func(s *runtimeapi.ContainerStatus) {
			for _, m := range s.Mounts {
				m.Readonly = true
			}
		}))},
		{"CRI-MOUNT-011", "says nothing of recursive read-only mounts", seen("recursive_read_only:true", both(recursive, plain))},
		{"CRI-MOUNT-016", "says nothing of propagation", seen("propagation:PROPAGATION_HOST_TO_CONTAINER", tellStatus(func(s *runtimeapi.ContainerStatus) {
			for _, m := range s.Mounts {
				m.Propagation = 0
			}
		}))},
		{"CRI-MOUNT-016", "says that all mounts propagate both ways", seen("want container_path:\"/none\"", tellStatus(func(s *runtimeapi.ContainerStatus) {
			for _, m := range s.Mounts {
				m.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
			}
		}))},
		{"CRI-MOUNT-012", "mounts no images", noMounts},
		{"CRI-MOUNT-013", "mounts no parts of images", noMounts},
		{"CRI-MOUNT-015", "relabels no files", mounted(func(m *runtimeapi.Mount) { m.SelinuxRelabel = false })},
		{"CRI-MOUNT-015", "relabels for another Pod", seen("want the container's", unlabelled)},
		{"CRI-MOUNT-014", "claims mount options", both(
			tell(func(r *runtimeapi.StatusResponse) { r.Features = &runtimeapi.RuntimeFeatures{MountOptions: true} }),
			mounted(func(m *runtimeapi.Mount) { m.MountOptions = nil }),
		)},
	}
}

func deviceMutants() []mutant {
	noCDI := create(func(c *runtimeapi.ContainerConfig) { c.CDIDevices = nil })
	return []mutant{
		{"CRI-DEV-001", "gives no devices", create(func(c *runtimeapi.ContainerConfig) { c.Devices = nil })},
		{"CRI-DEV-002", "gives every right to a device", create(func(c *runtimeapi.ContainerConfig) {
			for _, d := range c.Devices {
				d.Permissions = "rwm"
			}
		})},
		{"CRI-DEV-003", "knows no CDI", noCDI},
		{"CRI-DEV-004", "runs without its CDI device", noCDI},
		{"CRI-DEV-005", "has /dev/shm read-only", create(func(c *runtimeapi.ContainerConfig) {
			c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: os.TempDir(), ContainerPath: "/dev/shm", Readonly: true})
		})},
	}
}
