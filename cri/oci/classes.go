package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/class"
)

// classes holds the classes that Pods may choose.
type classes struct {
	blockIO *class.BlockIO
	rdt     *class.RDT
}

// loadClasses loads the configured classes. An RDT class that does not exist yet is only
// logged: a service that starts after this one may create it.
func loadClasses(c *Config) (all classes, err error) {
	if all.blockIO, err = class.LoadBlockIO(c.BlockIOClasses, c.Logger); err != nil {
		return all, err
	}
	if all.rdt, err = class.NewRDT(c.RDTClasses, nil); err != nil {
		return all, err
	}
	for _, name := range all.rdt.Names() {
		if err := all.rdt.Check(name); err != nil {
			c.Logger.Warn("containers cannot be in this class now", "class", name, "err", err)
		}
	}
	return all, nil
}

// classesOf looks up the classes that are chosen for a new container.
func (r *Runtime) classesOf(c *cri.Container) (io *specs.LinuxBlockIO, rdt string, err error) {
	by := class.Container{Name: c.Config.GetMetadata().GetName(), Annotations: c.Config.GetAnnotations(), Pod: c.Sandbox.Config.GetAnnotations()}
	if name := by.BlockIO(); name != "" {
		if io, err = r.classes.blockIO.Parameters(name); err != nil {
			return nil, "", err
		}
	}
	if rdt = by.RDT(); rdt != "" {
		err = r.classes.rdt.Check(rdt)
	}
	return io, rdt, err
}

// BlockIO returns the current parameters of a class of Config.BlockIOClasses, for
// callers that choose one on behalf of a Pod.
func (r *Runtime) BlockIO(name string) (*specs.LinuxBlockIO, error) {
	return r.classes.blockIO.Parameters(name)
}

// RDT is BlockIO for Config.RDTClasses.
func (r *Runtime) RDT(name string) (*specs.LinuxIntelRdt, error) {
	if err := r.classes.rdt.Check(name); err != nil {
		return nil, err
	}
	return &specs.LinuxIntelRdt{ClosID: name}, nil
}
