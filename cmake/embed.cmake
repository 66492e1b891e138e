# cvx_embed(TARGET "FILE;..." SYMBOL): the bytes of the files, one behind the other, as `const unsigned char SYMBOL[]`, a zero
# behind them, and `const size_t SYMBOL_len` in TARGET. Run as a script it writes the C file.
if(CMAKE_SCRIPT_MODE_FILE)
  string(REPLACE "|" ";" IN "${IN}")
  foreach(file IN LISTS IN)
    file(READ "${file}" one HEX)
    string(APPEND bytes "${one}")
  endforeach()
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  file(WRITE "${OUT}" "#include <stddef.h>\nextern const unsigned char ${SYMBOL}[];\nextern const size_t ${SYMBOL}_len;\n"
    "const unsigned char ${SYMBOL}[] = {${bytes}0};\nconst size_t ${SYMBOL}_len = sizeof ${SYMBOL} - 1;\n")
  return()
endif()
set(CVX_EMBED ${CMAKE_CURRENT_LIST_FILE})
function(cvx_embed target files symbol)
  set(out ${CMAKE_BINARY_DIR}/embedded/${symbol}.c)
  list(TRANSFORM files PREPEND ${CMAKE_SOURCE_DIR}/ OUTPUT_VARIABLE in)
  string(REPLACE ";" "|" joined "${in}")
  add_custom_command(OUTPUT ${out}
    COMMAND ${CMAKE_COMMAND} -DIN=${joined} -DOUT=${out} -DSYMBOL=${symbol} -P ${CVX_EMBED}
    DEPENDS ${files} ${CVX_EMBED} VERBATIM)
  target_sources(${target} PRIVATE ${out})
endfunction()
