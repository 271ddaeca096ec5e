package cri

// unsupported names the nil functions whose calls return Unimplemented, and Watch,
// without which no container ends by itself.
func (rt *Runtime) unsupported() []string {
	images, checkpoints := rt.Images, rt.Checkpoints
	if images == nil {
		images = &Images{}
	}
	if checkpoints == nil {
		checkpoints = &Checkpoints{}
	}
	var names []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"RunSandbox", rt.RunSandbox != nil},
		{"CreateContainer", rt.CreateContainer != nil},
		{"Watch", rt.Watch != nil},
		{"UpdateContainer", rt.UpdateContainer != nil},
		{"UpdateSandbox", rt.UpdateSandbox != nil},
		{"ReopenLog", rt.ReopenLog != nil},
		{"Exec", rt.Exec != nil},
		{"Attach", rt.Attach != nil},
		{"PortForward", rt.PortForward != nil},
		{"Stats", rt.Stats != nil},
		{"SandboxStats", rt.SandboxStats != nil},
		{"Metrics", rt.Metrics != nil},
		{"Checkpoints.Container", checkpoints.Container != nil},
		{"Checkpoints.Dump", checkpoints.Dump != nil},
		{"Checkpoints.Restore", checkpoints.Restore != nil},
		{"Images.List", images.List != nil},
		{"Images.Status", images.Status != nil},
		{"Images.Pull", images.Pull != nil},
		{"Images.Remove", images.Remove != nil},
		{"Images.FsInfo", images.FsInfo != nil},
	} {
		if !f.set {
			names = append(names, f.name)
		}
	}
	return names
}
