// Only says where the module begins: each build names one of `mods/` by -modfile, and a build tag that goes with it.
module muster.invalid/peers/opamp-client

go 1.25.0
