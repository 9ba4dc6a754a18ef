# A stub of OE-Core's class: just enough for the parser.
python_setuptools_build_meta_do_install() {
    :
}
EXPORT_FUNCTIONS do_install
