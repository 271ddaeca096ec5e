// Command nothing does nothing. What its execution takes is the least that a
// plugin written in Go can take on a machine.
package main

func main() {}
