package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

func deviceRules() []rule {
	return []rule{
		must("CRI-DEV-001", "gives a container a device of the host, under the path that it asks for",
			"Device", "Path of the device within the container.", checkDevice, Isolation),
		must("CRI-DEV-002", "lets a container do with a device what its permissions say, and no more",
			"Device", "Cgroups permissions of the device, candidates are one or more of", checkDevicePermissions, Isolation),
		must("CRI-DEV-003", "injects CDI devices",
			"CDIDevice", "Fully qualified CDI device name", checkCDI, Isolation, CDI),
		facto("CRI-DEV-004", "refuses a container whose CDI device is not there",
			"device plugins", "A container must not run without the device that it was given.", checkNoCDI, Isolation, CDI),
		relied("CRI-DEV-005", "gives every container the devices that programs count on",
			"OCI runtimes", "Programs find /dev/null, /dev/zero, /dev/full, /dev/random, /dev/urandom and /dev/tty, and a /dev/shm to write to.", checkDefaultDevices, Isolation),
	}
}

func device(d *runtimeapi.Device) edit {
	return func(c *runtimeapi.ContainerConfig) { c.Devices = append(c.Devices, d) }
}

// hostDevice returns a device of the machine that containers do not have by default and
// that is harmless to open; number is as stat-device prints it.
func hostDevice() (path, number string, err error) {
	candidates := []string{"/dev/loop-control", "/dev/fuse", "/dev/kmsg"}
	for _, path := range candidates {
		if number, err := characterDevice(path); err == nil {
			return path, number, nil
		}
	}
	return "", "", conformance.NotApplicable("this machine has none of the devices %q to give to a container", candidates)
}

func checkDevice(ctx context.Context, s *subject) error {
	path, number, err := hostDevice()
	if err != nil {
		return err
	}
	out, err := s.prints(ctx, "stat-device /dev/suite", device(&runtimeapi.Device{HostPath: path, ContainerPath: "/dev/suite", Permissions: "rw"}))
	if err == nil && out != number {
		return fmt.Errorf("the container's /dev/suite is %q, want the host's %s", strings.TrimSpace(out), path)
	}
	return err
}

func checkDevicePermissions(ctx context.Context, s *subject) error {
	path, _, err := hostDevice()
	if err != nil {
		return err
	}
	given := func(permissions string) edit {
		return device(&runtimeapi.Device{HostPath: path, ContainerPath: "/dev/suite", Permissions: permissions})
	}
	if _, err := s.prints(ctx, "do", do("open /dev/suite", "echo opened"), given("rw")); err != nil {
		return fmt.Errorf("with rw: %w", err)
	}
	_, err = s.prints(ctx, "open /dev/suite", given("r"))
	return refused("writing to a device whose permissions are r", err, "operation not permitted", "permission denied")
}

// cdiDir is where runtimes look for CDI specifications by default.
const cdiDir = "/var/run/cdi"

// cdi writes a CDI specification of a host device, and returns the CDI device's name.
func (s *subject) cdi(path string) (device string, err error) {
	file := filepath.Join(cdiDir, s.mark+".json")
	s.files = append(s.files, file)
	kind := s.mark + ".example.com/thing"
	text := fmt.Sprintf(`{"cdiVersion":"0.6.0","kind":%q,"devices":[{"name":"one","containerEdits":{"env":["SUITE_CDI=injected"],`+
		`"deviceNodes":[{"path":"/dev/suite","hostPath":%q}]}}]}`, kind, path)
	err = os.WriteFile(file, []byte(text), 0o644)
	for tries := 3; errors.Is(err, os.ErrNotExist) && tries > 0; tries-- {
		switch err := os.Mkdir(cdiDir, 0o755); {
		case err == nil:
			s.files = append(s.files, cdiDir) // it stays if it is no longer empty
		case !errors.Is(err, os.ErrExist):
			return "", err
		}
		err = os.WriteFile(file, []byte(text), 0o644) // another run may have removed the directory
	}
	return kind + "=one", err
}

func checkCDI(ctx context.Context, s *subject) error {
	path, number, err := hostDevice()
	if err != nil {
		return err
	}
	name, err := s.cdi(path)
	if err != nil {
		return err
	}
	out, err := s.prints(ctx, "do", do("env SUITE_CDI", "stat-device /dev/suite"), func(c *runtimeapi.ContainerConfig) {
		c.CDIDevices = []*runtimeapi.CDIDevice{{Name: name}}
	})
	if err == nil && out != "injected\n"+number {
		return fmt.Errorf("of its CDI device the container has %q", out)
	}
	return err
}

func checkNoCDI(ctx context.Context, s *subject) error {
	return s.runsNot(ctx, "whose CDI device is not there", func(c *runtimeapi.ContainerConfig) {
		c.CDIDevices = []*runtimeapi.CDIDevice{{Name: s.mark + ".example.com/none=one"}}
	})
}

func checkDefaultDevices(ctx context.Context, s *subject) error {
	out, err := s.prints(ctx, "do", do("ls /dev", "write /dev/shm/x y", "write /dev/null x"))
	if err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if !strings.Contains(out, " "+name+"\n") {
			return fmt.Errorf("the container's /dev is %q, want %s in it", out, name)
		}
	}
	return nil
}
