package oci

import "github.com/nodekit-project/nodekit/cri/oci/class"

// OfferRDT makes the runtime offer classes without a processor that supports RDT.
func (r *Runtime) OfferRDT(rdt *class.RDT) { r.classes.rdt = rdt }
