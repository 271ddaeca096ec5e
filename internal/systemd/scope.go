package systemd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// answerWithin bounds what is requested from systemd in one call.
const answerWithin = 10 * time.Second

// StartScope puts the process into a transient scope of that name
// ("nodekit-x.scope"): a cgroup of its own, which systemd neither stops with the
// caller's unit nor keeps when it is empty. Everything that the process starts from
// then on is in it too. An existing scope of that name is first ended, with
// everything in it, so a repeated call is safe after a crash.
//
// The scope stays until the very end of the machine's shutdown, when everything is
// killed: nothing in it ends before the containers that it keeps.
func StartScope(ctx context.Context, name, description string, pid int) error {
	err := ask(ctx, func(ctx context.Context, conn *dbus.Conn) error {
		if err := stopUnit(ctx, conn, name); err != nil {
			return err
		}
		return startUnit(ctx, conn, name, scopeProperties(description, pid))
	})
	if err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	return nil
}

// StopScope kills what is in the scope and ends it. It succeeds if there is no such
// scope.
func StopScope(ctx context.Context, name string) error {
	err := ask(ctx, func(ctx context.Context, conn *dbus.Conn) error { return stopUnit(ctx, conn, name) })
	if err != nil {
		return fmt.Errorf("stopping %s: %w", name, err)
	}
	return nil
}

// ask connects to systemd, over the system bus or, as root, directly if there is
// none.
func ask(ctx context.Context, question func(context.Context, *dbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("connecting to systemd: %w", err)
	}
	defer conn.Close()
	return question(ctx, conn)
}

func scopeProperties(description string, pid int) []dbus.Property {
	return []dbus.Property{
		dbus.PropDescription(description),
		dbus.PropPids(uint32(pid)),
		{Name: "DefaultDependencies", Value: godbus.MakeVariant(false)}, // not stopped at a shutdown
		{Name: "CollectMode", Value: godbus.MakeVariant("inactive-or-failed")},
		{Name: "KillSignal", Value: godbus.MakeVariant(int32(unix.SIGKILL))},
		{Name: "TasksMax", Value: godbus.MakeVariant(uint64(math.MaxUint64))},
	}
}

// Names of systemd's errors.
const (
	noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
	unitExists = "org.freedesktop.systemd1.UnitExists"
)

func is(err error, name string) bool {
	var e godbus.Error
	return errors.As(err, &e) && e.Name == name
}

// startUnit waits for an existing unit of the same name that is stopping.
func startUnit(ctx context.Context, conn *dbus.Conn, name string, properties []dbus.Property) error {
	for {
		result := make(chan string, 1)
		_, err := conn.StartTransientUnitContext(ctx, name, "fail", properties, result)
		if err == nil {
			return await(ctx, result)
		}
		if !is(err, unitExists) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func stopUnit(ctx context.Context, conn *dbus.Conn, name string) error {
	result := make(chan string, 1)
	_, err := conn.StopUnitContext(ctx, name, "replace", result)
	if is(err, noSuchUnit) {
		return nil
	}
	if err != nil {
		return err
	}
	return await(ctx, result)
}

// await waits for the end of a job.
func await(ctx context.Context, result <-chan string) error {
	select {
	case r := <-result:
		if r != "done" {
			return fmt.Errorf("the job ended with %q", r)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
