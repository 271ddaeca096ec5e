// Command typecheck checks the types of packages, their tests included, for the system
// that GOOS and GOARCH name. It compiles nothing: code for another system, which is
// never executed, is read in seconds instead of compiled in minutes.
//
// Usage: typecheck PATTERN...
package main

import (
	"fmt"
	"os"

	"golang.org/x/tools/go/packages"
)

func main() {
	checked, err := packages.Load(&packages.Config{
		Tests: true,
		Mode: packages.NeedName | packages.NeedImports | packages.NeedDeps | packages.NeedCompiledGoFiles |
			packages.NeedTypes | packages.NeedTypesSizes | packages.NeedSyntax,
	}, os.Args[1:]...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "typecheck:", err)
		os.Exit(1)
	}
	// A pattern without a package is no error for the loader.
	if len(checked) == 0 {
		fmt.Fprintln(os.Stderr, "typecheck: no packages in", os.Args[1:])
		os.Exit(1)
	}
	if packages.PrintErrors(checked) > 0 {
		os.Exit(1)
	}
}
