"""`migrate egressip`: egress IP objects of other projects → EgressIP, EgressNode and EgressIPAssignment of ours."""
