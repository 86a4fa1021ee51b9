"""Facts in and out: tables of runs, operator profiles and collectives, checked when read, written atomically.

`runs` holds end-to-end measurements, `sites` their medians per grid point, `profiles` one operator profile,
`store` where profiles lie on disk, `collectives` communication times, `files` safe reading and writing.
"""
