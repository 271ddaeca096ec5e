package nft

// Generation tells which transaction was the last.
func (c *Conn) Generation() (uint32, error) { return c.generation() }
