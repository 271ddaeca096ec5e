package main

import "github.com/spf13/cobra"

// classFlags are the service classes of the reference runtime that Pods may choose.
type classFlags struct {
	blockIO string
	rdt     []string
}

func (f *classFlags) addTo(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.blockIO, "blockio-config-file", "", "`file` of block I/O classes, in goresctrl's YAML format, "+
		"which Pods choose with the annotation blockio.resources.beta.kubernetes.io/pod")
	fs.StringArrayVar(&f.rdt, "rdt-class", nil, "resctrl `group` that Pods may choose with the annotation rdt.resources.beta.kubernetes.io/pod; may be repeated")
}

// parse returns the absolute path of the file, and the groups.
func (f *classFlags) parse() (blockIO string, rdt []string, err error) {
	blockIO = f.blockIO
	return blockIO, f.rdt, absolute(&blockIO)
}
