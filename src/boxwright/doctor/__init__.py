"""What a machine has, what each backend can do on it, why not, and the commands that help.

:func:`boxwright.doctor.report.examine` gives everything. A probe reads; it never writes,
installs or opens a connection, and native packages are imported in processes of their own.
"""
