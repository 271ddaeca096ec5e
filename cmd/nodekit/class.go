package main

import "github.com/spf13/cobra"

// classFlags are the service classes of the reference runtime that Pods may choose.
type classFlags struct {
	blockIO string
	rdt     []string
}

func (f *classFlags) addTo(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.blockIO, "blockio-config-file", "", "let Pods choose the block I/O classes in this `file`, "+
		"which is in goresctrl's format, by the annotation blockio.resources.beta.kubernetes.io/pod")
	fs.StringArrayVar(&f.rdt, "rdt-class", nil, "let Pods choose this `group` of resctrl, by the annotation rdt.resources.beta.kubernetes.io/pod")
}

// parse returns the absolute path of the file, and the groups.
func (f *classFlags) parse() (blockIO string, rdt []string, err error) {
	blockIO = f.blockIO
	return blockIO, f.rdt, absolute(&blockIO)
}
