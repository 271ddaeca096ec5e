package class

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/intel/goresctrl/pkg/blockio"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/yamlfile"
)

// BlockIO are block I/O classes. nil has none.
type BlockIO struct {
	file    string
	classes map[string][]blockio.DevicesParameters
	log     *slog.Logger
}

// LoadBlockIO reads the classes of a file in goresctrl's format: YAML that gives
// each class its weights and limits, for devices by the patterns of their paths.
// "" is no file, and no classes. A file that cannot be read is
// fault.FailedPrecondition, and one with a mistake fault.Invalid, which say which
// file and which class. A pattern that no device matches is no mistake but logged,
// for the machine may get the device.
func LoadBlockIO(file string, log *slog.Logger) (*BlockIO, error) {
	if file == "" {
		return nil, nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.FailedPrecondition.Errorf("reading the block I/O classes: %w", err)
	}
	var cfg blockio.Config
	if err := yamlfile.Decode(content, &cfg); err != nil {
		return nil, fmt.Errorf("reading the block I/O classes of %q: %w", file, err)
	}
	b := &BlockIO{file: file, classes: cfg.Classes, log: log}
	for _, name := range b.Names() {
		if _, err := b.Parameters(name); err != nil {
			return nil, fault.Invalid.Errorf("reading the block I/O classes of %q: %w", file, err)
		}
	}
	return b, nil
}

// Names are the classes that there are, in order.
func (b *BlockIO) Names() []string {
	if b == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(b.classes))
}

// Parameters are what a container of the class is to get on the devices that the
// machine has now: one that was there at an earlier time may have given its numbers
// to another. The error is fault.FailedPrecondition where there are no classes, and
// fault.Invalid for a class that is not among them.
func (b *BlockIO) Parameters(name string) (*specs.LinuxBlockIO, error) {
	if b == nil {
		return nil, fault.FailedPrecondition.Errorf("block I/O class %q is asked for, and this runtime has no such classes: "+
			"start it with --blockio-config-file and a file that describes them", name)
	}
	devices, ok := b.classes[name]
	if !ok {
		return nil, fault.Invalid.Errorf("block I/O class %q is not known: those in %q are %s", name, b.file, list(b.Names()))
	}
	params, err := resolve(name, devices, b.log.With("class", name))
	if err != nil {
		return nil, fmt.Errorf("block I/O class %q: %w", name, err)
	}
	return params, nil
}

// resolving is held by who uses goresctrl's blockio: it keeps the one
// configuration of a process, and its logger, in variables, and here several
// runtimes may be in one.
var resolving sync.Mutex

// resolve returns a class as the OCI runtime is given it.
func resolve(name string, devices []blockio.DevicesParameters, log *slog.Logger) (*specs.LinuxBlockIO, error) {
	resolving.Lock()
	defer resolving.Unlock()
	blockio.SetLogger(log)
	defer blockio.SetLogger(slog.New(slog.DiscardHandler))
	one := &blockio.Config{Classes: map[string][]blockio.DevicesParameters{name: devices}}
	if err := blockio.SetConfig(one, false); err != nil {
		return nil, err
	}
	return blockio.OciLinuxBlockIO(name)
}
