package oci

import "github.com/nodekit-project/nodekit/cri/oci/class"

// OfferRDT has the runtime offer classes that need no processor with RDT.
func (r *Runtime) OfferRDT(rdt *class.RDT) { r.classes.rdt = rdt }
