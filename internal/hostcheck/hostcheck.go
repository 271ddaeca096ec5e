// Package hostcheck checks whether a machine has what a node needs: each check names
// one thing, says whether it is there and, if not, which command fixes that. It only
// looks: it loads no module and changes nothing.
package hostcheck

// OCIRuntime is the name of the check that does not apply to a node on a foreign CRI
// runtime.
const OCIRuntime = "OCI runtime"

// Result is the outcome of one check.
type Result struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Needed is false if only some Pods or plugins need it.
	Needed bool   `json:"needed"`
	Found  string `json:"found"`         // what was seen, for people
	Fix    string `json:"fix,omitempty"` // the command or action that fixes it; empty if OK
}

// check is one row of the table: look returns what it found, and the fix or "" if all
// is well.
type check struct {
	name   string
	needed bool
	look   func() (found, fix string)
}

// Run runs every check, in a fixed order.
func Run() []Result {
	var results []Result
	for _, c := range checks() {
		found, fix := c.look()
		results = append(results, Result{Name: c.name, OK: fix == "", Needed: c.needed, Found: found, Fix: fix})
	}
	return results
}

// Missing returns the results of needed things that are missing.
func Missing(results []Result) []Result {
	var missing []Result
	for _, r := range results {
		if r.Needed && !r.OK {
			missing = append(missing, r)
		}
	}
	return missing
}
