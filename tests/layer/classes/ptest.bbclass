# A stub of OE-Core's class: just enough for the parser.
do_install_ptest() {
    :
}
