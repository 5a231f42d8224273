"""A real Asterisk and real SIP phones on one machine, for trying the codes and for the tests."""
